//! `catchment demo`: the gateway over a fictional organisation.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;

use super::{Failure, clear_url, until_signalled};
use crate::app::{self, ExtraSource};
use crate::config::{self, Config, HttpConfig};
use crate::model::NoveltyLimits;
use crate::source::demo::DemoSource;

const EXAMPLES: &str = "\
Examples:
  catchment demo
  catchment demo --rate 200 --listen 127.0.0.1:9000
  catchment demo --data-dir ./demo-data    keeps the log; the next start appends to it

Two AWS accounts with people, pipelines and services that change networks, instances, buckets,
roles and functions, and occasionally do something worth an alert. None of it is real; it needs
no cloud account and no configuration. Commands to try are printed at startup.";

/// Try it: serve the changes of a fictional organisation
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// IP address and port to serve HTTP on
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8780", value_parser = config::parse_address)]
    listen: SocketAddr,
    /// Records per second, from 0.01 to 10000
    #[arg(long, value_name = "RATE", default_value = "5", value_parser = parse_rate)]
    rate: f64,
    /// Keep the log in this folder instead of in memory
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Seed: the same number gives the same changes [default: random]
    #[arg(long, value_name = "NUMBER", conflicts_with = "data_dir")]
    seed: Option<u64>,
}

fn parse_rate(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|rate| (0.01..=10_000.0).contains(rate))
        .ok_or_else(|| format!("{text:?} is not a number from 0.01 to 10000"))
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let defaults = Config::default();
    let config = Config {
        ephemeral: arguments.data_dir.is_none(),
        data_dir: arguments.data_dir.clone().unwrap_or(defaults.data_dir),
        // There is no time for learning: everything seen first is new.
        novelty: NoveltyLimits { learning_days: 0, ..NoveltyLimits::default() },
        http: HttpConfig { listen: arguments.listen, ..defaults.http },
        ..defaults
    };
    let source = DemoSource::new(arguments.seed.unwrap_or_else(|| fastrand::u64(..)), arguments.rate);
    let rate = arguments.rate;
    let greet = move |address| {
        // If standard output is closed, the demo runs without it.
        let _ = io::stdout().write_all(greeting(address, rate).as_bytes());
    };
    let demo = ExtraSource { id: "demo".into(), kind: "demo", source: Box::new(source) };
    let setup = app::Setup { extra: Some(demo), ..app::Setup::default() };
    until_signalled(async |stop| Ok(app::run(config, setup, greet, stop).await?))
}

/// What to try, ready to paste.
fn greeting(address: SocketAddr, rate: f64) -> String {
    let url = clear_url(address);
    format!(
        r#"
A fictional organisation with two AWS accounts, about {rate} records per second, is live on {url}
Paste these into another terminal (they use jq); Ctrl-C ends the demo.

  The stream, as a browser's EventSource sees it:
    curl -N '{url}/v1/events'

  One line per change: time, method, principal, call, asset:
    curl -sN '{url}/v1/events?format=ndjson&since=5m&omit=raw' | jq -r '[.time, .data.attribution.method, .data.attribution.principal.name, .data.operation.name, .data.asset.type, .data.asset.display_name // .data.asset.id] | @tsv'

  Only network changes, with the exact difference:
    curl -sN '{url}/v1/events?format=ndjson&asset_type=network.*&type=io.catchment.asset.update' | jq '{{asset: .subject, changes: .data.changes}}'

  Rules opened to the whole internet (wait a few minutes, someone will):
    curl -sN '{url}/v1/events?format=ndjson&asset_type=network.security_group&since=1h' | jq -c --unbuffered 'select(any(.data.changes[]?; .op == "add" and (.value | tostring | contains("0.0.0.0/0")))) | [.time, .data.attribution.principal.name, .data.attribution.ip, .data.asset.id]'

  Changes made by hand in the console:
    curl -sN '{url}/v1/events?format=ndjson&method=console&since=5m' | jq -r '[.time, .data.attribution.principal.name, .data.operation.name, .subject] | @tsv'

  What is new: a principal's first change from an address, by a method, in a region, of an asset type:
    curl -sN '{url}/v1/events?format=ndjson&novelty=any&since=1h' | jq -r '[.time, .data.attribution.principal.name, .data.attribution.ip, .data.operation.name, (.data.novelty | join(" "))] | @tsv'

  Disconnect and resume without a gap or a duplicate:
    ID=$(curl -sN '{url}/v1/events?limit=10' | sed -n 's/^id: *//p' | tail -n 1)
    curl -N -H "Last-Event-ID: $ID" '{url}/v1/events'

  What exists now, and the history of one asset:
    curl -s '{url}/v1/assets?type=network.security_group' | jq
    NAME=$(curl -s '{url}/v1/assets?type=network.security_group&limit=1' | jq -r '.assets[0].name | @uri')
    curl -s "{url}/v1/assets/$NAME" | jq
    curl -s "{url}/v1/assets/$NAME/history" | jq

  The health of the gateway:
    curl -s '{url}/v1/sources' | jq
    curl -s '{url}/metrics'

"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_greeting_names_an_address_that_can_be_connected_to() {
        for (listen, url) in [
            ("127.0.0.1:8780", "'http://127.0.0.1:8780/v1/events'"),
            ("0.0.0.0:80", "'http://127.0.0.1:80/v1/events'"),
            ("[::]:9", "'http://[::1]:9/v1/events'"),
        ] {
            let text = greeting(listen.parse().unwrap(), 5.0);
            assert!(text.contains(url) && text.contains("about 5 records per second"), "{text}");
            assert!(text.contains("jq '{asset: .subject"), "braces are written once: {text}");
        }
    }

    #[test]
    fn a_rate_has_bounds() {
        assert_eq!(parse_rate("0.5"), Ok(0.5));
        for text in ["0", "-1", "NaN", "inf", "10001", "fast"] {
            assert!(parse_rate(text).is_err(), "{text}");
        }
    }
}
