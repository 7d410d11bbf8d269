//! x
use catchment::{ingest::*, inventory::*, model::*, normalize::*};
use std::io::Write;
use std::sync::Arc;
fn main() {
    let f = std::env::args().last().unwrap();
    let e = Arc::new(
        Engine::load(std::env::var_os("OVR").as_deref().map(std::path::Path::new)).unwrap_or_else(|e| panic!("{e}")),
    );
    let mut p = Processor::new(e, Arc::new(Inventory::new()), "io.catchment".into(), 100000);
    let mut out = std::io::BufWriter::new(std::io::stdout());
    for (i, l) in std::fs::read_to_string(f).unwrap().lines().enumerate() {
        let r = p.process(l.as_bytes(), Time::default(), |_| Ok::<_, ()>(false)).unwrap();
        let (o, reason, rule, ev) = match r {
            Processed::Changes { events, rule, .. } => (
                "changes",
                String::new(),
                Some(rule.to_string()),
                events
                    .iter()
                    .map(|e| serde_json::from_slice::<serde_json::Value>(&e.json).unwrap())
                    .collect::<Vec<_>>(),
            ),
            Processed::Skipped { reason, rule } => ("skipped", reason.to_string(), rule.map(|r| r.to_string()), vec![]),
            Processed::Duplicate { event_id } => ("duplicate", event_id, None, vec![]),
            Processed::Rejected { code, reason, rule } => {
                ("quarantined", format!("{code}: {reason}"), rule.map(|r| r.to_string()), vec![])
            }
        };
        writeln!(
            out,
            "{}",
            serde_json::json!({"file":"","index":i,"outcome":o,"reason":reason,"rule":rule,"events":ev})
        )
        .unwrap();
    }
}
