//! `catchment status`: the health of a running server.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write};

use serde_json::Value;

use super::server::{Place, Server, harmless, text};
use super::{Failure, until_signalled};
use crate::config::Environment;

const EXAMPLES: &str = "\
Examples:
  catchment status
  catchment status --url https://catchment.example.com
  catchment status --json | jq '.sources[] | select(.last_error)'

Asks the server at the configured address, or at --url, with the token in CATCHMENT_TOKEN, which
must have no scope. Exits with 0 if the server is ready, and with 1 if it is not or can't be
reached.";

/// Show the health of a running server: sources, log, subscribers, quarantine
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// Print the server's answer as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    place: Place,
}

pub(super) fn run(arguments: &Arguments, environment: &Environment, output: &mut dyn Write) -> Result<(), Failure> {
    let server = Server::at(&arguments.place, environment)?;
    until_signalled(async |stop| {
        let work = Box::pin(print(arguments.json, &server, output));
        stop.run_until_cancelled(work).await.unwrap_or(Ok(()))
    })
}

async fn print(json: bool, server: &Server, output: &mut dyn Write) -> Result<(), Failure> {
    let status = server.get("/v1/status").await?.map_err(|problem| server.refused(&problem))?;
    if json {
        writeln!(output, "{status}")?;
    } else {
        output.write_all(portrait(&status, colours()).as_bytes())?;
    }
    output.flush()?;
    if status["ready"] == true { Ok(()) } else { Err(Failure::run("check the server", why(&status))) }
}

fn why(status: &Value) -> String {
    if status["stopping"] == true {
        return "it is stopping".to_owned();
    }
    let missing: Vec<_> = status["missing"].as_array().into_iter().flatten().map(text).collect();
    format!("not ready: waiting for {}", missing.join(", "))
}

/// Colour on a terminal only, unless `NO_COLOR` is set (<https://no-color.org>).
fn colours() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// The status as text.
fn portrait(status: &Value, colours: bool) -> String {
    let mut out = String::new();
    let paint = |good: bool, word: &str| match (colours, good) {
        (false, _) => word.to_owned(),
        (true, true) => format!("\x1b[32m{word}\x1b[0m"),
        (true, false) => format!("\x1b[31m{word}\x1b[0m"),
    };
    let ready = status["ready"] == true;
    let state = if ready { paint(true, "ready") } else { paint(false, &why(status)) };
    let version = harmless(&format!("catchment {} (commit {})", text(&status["version"]), text(&status["commit"])));
    // Writing into a string can't fail.
    let _ = writeln!(out, "{version}, up {}: {state}", span(number(&status["uptime_secs"])));
    let mut line = |name: &str, told: String| {
        let _ = writeln!(out, "{name:<12}{}", harmless(&told));
    };
    log(&status["log"], &mut line);
    line("records", outcomes(&status["records"]));
    line("assets", number(&status["assets"]).to_string());
    let streams = &status["streams"];
    let slowest = match (number(&streams["behind"]), number(&streams["replaying"])) {
        (0, _) => "none behind".to_owned(),
        (behind, replaying) => format!(
            "{behind} behind, {replaying} of them served from disk, the slowest by {} events",
            number(&streams["lag_events"])
        ),
    };
    line("subscribers", format!("{}; {slowest}", number(&streams["open"])));
    if let Some(memory) = status["memory_bytes"].as_u64() {
        line("memory", bytes(memory));
    }
    let quarantine = &status["quarantine"];
    line("quarantine", format!("{} records, {}", number(&quarantine["records"]), bytes(number(&quarantine["bytes"]))));
    for reject in quarantine["latest"].as_array().into_iter().flatten() {
        let [number, observed, source, code, reason] =
            ["number", "observed", "source", "code", "reason"].map(|name| text(&reject[name]));
        line("", format!("{observed}  #{number} of {source}: {code}: {reason}"));
    }
    let sources = status["sources"].as_array().map(Vec::as_slice).unwrap_or_default();
    if sources.is_empty() {
        line("sources", "none".to_owned());
    }
    for source in sources {
        let state = text(&source["state"]);
        let good = matches!(state.as_str(), "starting" | "running" | "finished");
        let _ = writeln!(out, "{}", source_line(source, &paint(good, &harmless(&state))));
        if !source["last_error"].is_null() {
            let told = format!("{}  {}", text(&source["last_error_at"]), text(&source["last_error"]));
            let _ = writeln!(out, "{:<12}last error: {}", "", harmless(&told));
        }
    }
    out
}

fn log(log: &Value, line: &mut impl FnMut(&str, String)) {
    let [minute, hour] = ["events_last_minute", "events_last_hour"].map(|name| number(&log[name]));
    let [kept, disk] = ["bytes", "disk_bytes"].map(|name| bytes(number(&log[name])));
    line("log", format!("{} events in {kept} ({disk} on disk, indexes and assets included)", number(&log["events"])));
    if let Some(why) = log["waits_for"].as_str() {
        line("", format!("intake paused: {why}"));
    }
    if !log["oldest"].is_null() {
        let [floor, tail, oldest, newest] = ["floor", "tail", "oldest", "newest"].map(|name| text(&log[name]));
        line("", format!("from {floor} of {oldest} to {tail} of {newest}"));
    }
    line("", format!("{minute} in the last minute, {hour} in the last hour"));
}

fn outcomes(records: &Value) -> String {
    let others = records.as_object().into_iter().flatten().filter(|(name, _)| *name != "received");
    let others: Vec<_> = others.map(|(name, count)| format!("{} {name}", number(count))).collect();
    let received = format!("{} since the start", number(&records["received"]));
    if others.is_empty() { received } else { format!("{received}: {}", others.join(", ")) }
}

fn source_line(source: &Value, state: &str) -> String {
    let mut told = format!("{} ({}): {state}", harmless(&text(&source["name"])), text(&source["kind"]));
    if let Some(lag) = source["lag_secs"].as_f64() {
        let _ = write!(told, ", {lag:.0} s behind");
    }
    let _ = write!(told, ", {} records", number(&source["records"]));
    if let Some(position) = source["position"].as_str() {
        let _ = write!(told, ", at {}", harmless(position));
    }
    format!("{:<12}{told}", "source")
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or(0)
}

fn span(secs: u64) -> String {
    match (secs / 86_400, secs / 3_600 % 24, secs / 60 % 60, secs % 60) {
        (0, 0, 0, secs) => format!("{secs} s"),
        (0, 0, minutes, secs) => format!("{minutes} min {secs} s"),
        (0, hours, minutes, _) => format!("{hours} h {minutes} min"),
        (days, hours, ..) => format!("{days} d {hours} h"),
    }
}

#[expect(clippy::cast_precision_loss, reason = "three digits are told")]
fn bytes(count: u64) -> String {
    let units = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match units.into_iter().find(|(unit, _)| count >= *unit) {
        Some((unit, name)) => format!("{:.1} {name}", count as f64 / unit as f64),
        None => format!("{count} bytes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn status(ready: bool) -> Value {
        json!({
            "version": "0.1.0", "commit": "abc", "uptime_secs": 3_720, "ready": ready, "stopping": false, "missing": if ready { vec![] } else { vec!["sources"] },
            "records": { "received": 12, "changes": 10, "quarantined": 2 },
            "log": { "floor": 1, "tail": 10, "events": 10, "events_last_minute": 3, "events_last_hour": 10, "bytes": 2_048, "disk_bytes": 5_242_880, "waits_for": "room", "oldest": "A", "newest": "B" },
            "assets": 4, "streams": { "open": 2, "behind": 1, "replaying": 1, "lag_events": 7 }, "memory_bytes": 1_073_741_824_u64,
            "quarantine": { "records": 2, "bytes": 100, "latest": [{ "number": 2, "source": "trail", "code": "not_json", "reason": "no\u{1b}[2J", "observed": "C" }] },
            "sources": [{ "name": "trail", "kind": "file", "state": "retrying", "lag_secs": 61.2, "records": 12, "position": "x at byte 3", "last_error": "gone", "last_error_at": "D" }],
        })
    }

    #[test]
    fn the_text_has_every_part_and_no_control_characters() {
        let told = portrait(&status(true), false);
        for part in [
            "catchment 0.1.0 (commit abc), up 1 h 2 min: ready\n",
            "10 events in 2.0 KiB (5.0 MiB on disk",
            "from 1 of A to 10 of B",
            "3 in the last minute",
            "intake paused: room",
            "12 since the start: 10 changes, 2 quarantined",
            "2; 1 behind, 1 of them served from disk, the slowest by 7 events",
            "1.0 GiB",
            "#2 of trail: not_json: no",
            "trail (file): retrying, 61 s behind, 12 records, at x at byte 3",
            "last error: D  gone",
        ] {
            assert!(told.contains(part), "{part}: {told}");
        }
        assert!(!told.contains('\x1b'), "{told}");
        let coloured = portrait(&status(false), true);
        assert!(
            coloured.contains("\x1b[31mnot ready: waiting for sources\x1b[0m") && coloured.contains("\x1b[31mretrying"),
            "{coloured}"
        );
    }
}
