//! `catchment asset`: the state of an asset on a running server, now or at a time, or the changes between two times.

use std::collections::BTreeSet;
use std::io::Write;
use std::sync::Arc;

use jsonptr::PointerBuf;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use super::server::{Place, Server, harmless, text};
use super::{Failure, until_signalled};
use crate::config::Environment;
use crate::inventory::{Change, ChangeOp, diff};
use crate::json::{Arena, Json};
use crate::model::KeyedSet;

/// Maximum number of characters printed of a value; `--json` prints all.
const LONGEST: usize = 160;

const EXAMPLES: &str = "\
Examples:
  catchment asset asset://aws/111122223333/eu-west-1/ec2/security-group/sg-1
  catchment asset NAME --at 2026-02-03T04:05:06Z
  catchment asset NAME --diff 2d 0s
  catchment asset NAME --json --url https://catchment.example.com | jq .configuration

Prints the asset as a running server holds it, and for each value of its configuration the event
that set it: when, by whom, by which call and with which tool. Times are RFC 3339, or durations
before now (90m, 2h, 7d). --diff prints what was removed (-) and added (+) between the two times.
Asks the server at the configured address, or at --url, with the token in CATCHMENT_TOKEN.";

/// Print an asset: its state now or at a time, who set each value, what changed
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// The asset's name, as events and /v1/assets give it
    #[arg(value_name = "NAME")]
    name: String,
    /// Show it as of this time
    #[arg(long, value_name = "TIME", conflicts_with = "diff")]
    at: Option<String>,
    /// Show what changed between two times
    #[arg(long, value_names = ["FROM", "TO"], num_args = 2)]
    diff: Option<Vec<String>>,
    /// Print the server's answer as JSON; with --diff, the difference
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    place: Place,
}

pub(super) fn run(arguments: &Arguments, environment: &Environment, output: &mut dyn Write) -> Result<(), Failure> {
    if !arguments.name.starts_with("asset://") {
        let hint = "names begin with asset://; /v1/assets lists them";
        return Err(Failure::Usage(format!("{:?} is not an asset name: {hint}", arguments.name)));
    }
    let server = Asset { server: Server::at(&arguments.place, environment)?, name: arguments.name.clone() };
    until_signalled(async |stop| {
        let work = Box::pin(print(arguments, &server, output));
        stop.run_until_cancelled(work).await.unwrap_or(Ok(()))
    })
}

async fn print(arguments: &Arguments, server: &Asset, output: &mut dyn Write) -> Result<(), Failure> {
    if let Some([from, to]) = arguments.diff.as_deref() {
        let [before, after] = [server.then(from).await?, server.then(to).await?];
        let changes = changes(&before["configuration"], &after["configuration"]);
        return if arguments.json {
            Ok(writeln!(output, "{}", json!({ "from": head(before), "to": head(after), "changes": changes }))?)
        } else {
            Ok(output.write_all(difference(&before, &after, &changes).as_bytes())?)
        };
    }
    let asset = server.get("", arguments.at.as_deref()).await?.map_err(|problem| server.refused(&problem))?;
    if arguments.json {
        return Ok(writeln!(output, "{asset}")?);
    }
    let blame = server.get("/blame", arguments.at.as_deref()).await?.map_err(|problem| server.refused(&problem))?;
    Ok(output.write_all(portrait(&asset, &blame).as_bytes())?)
}

/// The running server and the asset to request.
struct Asset {
    server: Server,
    name: String,
}

impl Asset {
    /// Requests the asset: the response, or the problem document of a refusal.
    async fn get(&self, of: &str, as_of: Option<&str>) -> Result<Result<Value, Value>, Failure> {
        let encode = |text| utf8_percent_encode(text, NON_ALPHANUMERIC);
        let query = as_of.map(|time| format!("?as_of={}", encode(time))).unwrap_or_default();
        self.server.get(&format!("/v1/assets/{}{of}{query}", encode(&self.name))).await
    }

    /// The asset at a time; only `as_of` if nothing is known about it then.
    async fn then(&self, time: &str) -> Result<Value, Failure> {
        match self.get("", Some(time)).await? {
            Err(problem) if problem["code"] == "asset_not_known_then" => Ok(json!({ "as_of": time })),
            answer => answer.map_err(|problem| self.refused(&problem)),
        }
    }

    fn refused(&self, problem: &Value) -> Failure {
        self.server.refused(problem)
    }
}

/// The asset without its configuration.
fn head(mut asset: Value) -> Value {
    if let Some(members) = asset.as_object_mut() {
        members.remove("configuration");
    }
    asset
}

/// The difference of two configurations, with elements of arrays compared by value.
fn changes(before: &Value, after: &Value) -> Vec<Change> {
    let mut arrays = BTreeSet::new();
    for document in [before, after] {
        find_arrays(document, &PointerBuf::root(), &mut arrays);
    }
    let whole: Arc<[PointerBuf]> = Arc::new([PointerBuf::root()]);
    let sets: Vec<_> =
        arrays.into_iter().map(|at| KeyedSet { at, key: Arc::clone(&whole), ignore_case: false }).collect();
    let arena = Arena::new();
    let object = |value: &Value| if value.is_null() { Json::EMPTY } else { Json::copied(value, &arena) };
    diff(object(before), object(after), &sets).into_iter().map(Change::into_owned).collect()
}

fn find_arrays(value: &Value, at: &PointerBuf, found: &mut BTreeSet<PointerBuf>) {
    match value {
        Value::Array(_) => {
            found.insert(at.clone());
        }
        Value::Object(members) => {
            members.iter().for_each(|(key, value)| find_arrays(value, &at.with_trailing_token(key.as_str()), found));
        }
        _ => {}
    }
}

/// The difference of an asset between two times, as text.
fn difference(before: &Value, after: &Value, changes: &[Change]) -> String {
    let title = |asset: &Value| match &asset["last_event"] {
        Value::Null => format!("{}  (nothing known)", text(&asset["as_of"])),
        event => format!(
            "{}  {}, as event {} left it",
            text(&asset["as_of"]),
            text(&asset["configuration_state"]),
            text(event)
        ),
    };
    let mut out = format!("--- {}\n+++ {}\n", title(before), title(after));
    for Change { op, path, value, old } in changes {
        if *op != ChangeOp::Add {
            out.push_str(&format!("- {path}  {}\n", shortened(old)));
        }
        if *op != ChangeOp::Remove {
            out.push_str(&format!("+ {path}  {}\n", shortened(value)));
        }
    }
    if changes.is_empty() {
        out.push_str("no difference\n");
    }
    out
}

/// An asset as text: its description, then each value and who set it.
fn portrait(asset: &Value, blame: &Value) -> String {
    let mut out = String::new();
    let mut line = |text: String| {
        out.push_str(&harmless(&text));
        out.push('\n');
    };
    line(text(&asset["name"]));
    line(format!("  {}, {}, {}", text(&asset["type"]), text(&asset["provider_type"]), text(&asset["id"])));
    for (label, key) in [("name", "display_name"), ("arn", "arn"), ("uid", "uid"), ("as of", "as_of")] {
        if !asset[key].is_null() {
            line(format!("  {label} {}", text(&asset[key])));
        }
    }
    line(format!("  account {}, region {}", text(&asset["account"]), text(&asset["region"])));
    line(format!("  first seen {}", text(&asset["first_seen"])));
    line(format!("  changed {} by event {}", text(&asset["changed"]), text(&asset["last_event"])));
    line(format!("  configuration: {}", text(&asset["configuration_state"])));
    let fields: Vec<_> = blame["fields"].as_array().into_iter().flatten().map(field).collect();
    let width = |column: usize| {
        let lengths = fields.iter().map(|field: &[String; 3]| field.get(column).map_or(0, |text| text.chars().count()));
        lengths.max().unwrap_or(0).min(60)
    };
    let (paths, values) = (width(0), width(1));
    for [path, value, by] in &fields {
        line(format!("    {path:<paths$}  {value:<values$}  {by}").trim_end().to_owned());
    }
    if fields.iter().any(|[_, _, by]| by.is_empty()) && !blame["since"].is_null() {
        line(format!("  values without a time were not set by an event from {} on", text(&blame["since"])));
    }
    out
}

/// Path, value, and who set it and when.
fn field(field: &Value) -> [String; 3] {
    let by = &field["set_by"];
    let who = [&by["human"], &by["principal"]].into_iter().find(|who| !who.is_null());
    let by = match by {
        Value::Null => String::new(),
        by => format!(
            "{}  {}  {} ({})",
            text(&by["time"]),
            who.map_or_else(|| "?".to_owned(), text),
            text(&by["operation"]),
            text(&by["method"])
        ),
    };
    [text(&field["path"]), shortened(&field["value"]), by]
}

fn shortened(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}… ({} bytes)", text.get(..end).unwrap_or_default(), text.len()),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_tells_elements_by_their_value() {
        let at = |time: &str, rules: Value| {
            json!({ "as_of": time, "last_event": "e:0", "configuration_state": "complete",
                    "configuration": { "groupName": "web", "rules": rules } })
        };
        let (before, after) =
            (at("T1", json!([{ "port": 22 }, { "port": 80 }])), at("T2", json!([{ "port": 80 }, { "port": 443 }])));
        let told = |before: &Value, after: &Value| {
            difference(before, after, &changes(&before["configuration"], &after["configuration"]))
        };
        assert_eq!(
            told(&before, &after),
            "--- T1  complete, as event e:0 left it\n+++ T2  complete, as event e:0 left it\n\
             - /rules/0  {\"port\":22}\n+ /rules/-  {\"port\":443}\n"
        );
        assert!(told(&after, &after).ends_with("no difference\n"));
        let created = told(&json!({ "as_of": "T0" }), &before);
        assert!(
            created.starts_with("--- T0  (nothing known)\n") && created.contains("+ /groupName  \"web\"\n"),
            "{created}"
        );
    }

    #[test]
    fn each_value_stands_with_who_set_it() {
        let asset = json!({ "name": "asset://a", "type": "network.security_group", "provider_type": "AWS::EC2::SecurityGroup",
            "id": "sg-1", "arn": null, "display_name": "web", "account": "111122223333", "region": "eu-west-1",
            "configuration_state": "partial", "first_seen": "F", "changed": "C", "last_event": "e:0" });
        let by = json!({ "time": "T", "principal": "deployer", "human": "jane@example.com", "operation": "CreateTags", "method": "cli" });
        let blame = json!({ "since": "S", "fields": [
            { "path": "/a", "value": "x".repeat(500), "set_by": by }, { "path": "/b", "value": 1, "set_by": null } ] });
        let text = portrait(&asset, &blame);
        assert!(text.contains("T  jane@example.com  CreateTags (cli)\n"), "{text}");
        assert!(text.contains("… (502 bytes)") && text.contains("\n    /b"), "{text}");
        assert!(text.contains("not set by an event from S on") && !text.contains("arn"), "{text}");
    }
}
