//! The cost of an import, and of queries for an asset's past (`as_of`, blame, history), through the program itself.
//!
//! A snapshot of AWS Config with 10,000 security groups is imported; then a file of 100,000 records opens and closes
//! their ports, one in a hundred of them a minute late; then randomly chosen assets are queried, one request after the
//! other. Responses are measured by wall time and by the CPU time of the server (Linux), which does not depend on how
//! busy the machine is.
//!
//! `cargo bench --bench history`; `CATCHMENT_BENCH_QUICK=1` for a tenth of each, `CATCHMENT_BENCH_DIR` chooses the
//! disk.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, clippy::cast_precision_loss, missing_docs)]

mod cpu;

use std::fmt::Write as _;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// Changes of the one asset that changes far more often than all others.
const OF_ONE: usize = 1_000;
const ACCOUNT: &str = "111122223333";
/// The time of the snapshot; one record per second follows.
const START: i64 = 1_767_225_600;

fn main() {
    let share = if std::env::var_os("CATCHMENT_BENCH_QUICK").is_some() { 10 } else { 1 };
    let (assets, records, calls) = (10_000 / share, 100_000 / share, 1_000 / share);
    let root = std::env::var_os("CATCHMENT_BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    let folder = tempfile::tempdir_in(root).unwrap();
    let config = folder.path().join("catchment.toml");
    let trail = folder.path().join("trail.ndjson");
    let text = format!(
        "data_dir = {:?}\n[log]\nretention_days = 100000\n[sources.trail.file]\npath = {trail:?}\nfollow = false\n",
        folder.path().join("data")
    );
    std::fs::write(&config, text).unwrap();
    import(folder.path(), &config, assets);
    std::fs::write(&trail, trail_of(assets, records)).unwrap();

    let start = Instant::now();
    let server = Server::start(&config);
    let total = records + OF_ONE;
    while server.tail() < total as u64 {
        std::thread::sleep(Duration::from_millis(100));
    }
    println!(
        "\n{total} records of {assets} assets taken in: {:.0} records/s\n",
        total as f64 / start.elapsed().as_secs_f64()
    );

    println!("| asked for | p50, ms | p99, ms | CPU of the server, ms |");
    println!("|---|---|---|---|");
    let mut random = fastrand::Rng::with_seed(7);
    let span = i64::try_from(records).unwrap();
    for (what, of_one) in [("one of many", false), ("the one that changes all the time", true)] {
        let mut ask = |name: &str, path: &dyn Fn(&str, i64) -> String| {
            // Its history reads a thousand events each time.
            let calls = if of_one { calls / 10 } else { calls };
            let paths = (0..calls).map(|_| {
                let asset = if of_one { assets } else { random.usize(..assets) };
                path(&format!("/v1/assets/{}", name_of(asset)), START + random.i64(1..span))
            });
            server.measure(&format!("{name}, {what}"), &paths.collect::<Vec<_>>());
        };
        ask("asset", &|asset, _| asset.to_owned());
        ask("asset as_of", &|asset, at| format!("{asset}?as_of={}", time(at)));
        ask("blame", &|asset, _| format!("{asset}/blame"));
        ask("blame as_of", &|asset, at| format!("{asset}/blame?as_of={}", time(at)));
        ask("history, 50 events", &|asset, _| format!("{asset}/history?limit=50&omit=raw"));
    }
}

/// The asset name of a group.
fn name_of(n: usize) -> String {
    format!("asset://aws/{ACCOUNT}/eu-west-1/ec2/security-group/sg-{n:017x}")
}

fn time(at: i64) -> String {
    catchment::model::Time::from_millis(at * 1_000).to_string()
}

/// The program, without the bench's environment variables.
fn catchment() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_catchment"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("CATCHMENT_")) {
        command.env_remove(name);
    }
    command
}

fn import(folder: &Path, config: &Path, assets: usize) {
    let item = |n: usize| {
        let permissions: Vec<Value> = (0..8)
            .map(|port| json!({ "ipProtocol": "tcp", "fromPort": 8_000 + port, "toPort": 8_000 + port, "ipRanges": ["10.0.0.0/8"] }))
            .collect();
        json!({
            "resourceType": "AWS::EC2::SecurityGroup", "resourceId": format!("sg-{n:017x}"), "awsAccountId": ACCOUNT,
            "awsRegion": "eu-west-1", "configurationItemStatus": "OK", "configurationItemCaptureTime": time(START),
            "configuration": { "groupId": format!("sg-{n:017x}"), "groupName": format!("group-{n}"), "vpcId": "vpc-1",
                "description": "one of many", "ipPermissions": permissions, "ipPermissionsEgress": [] },
        })
    };
    // The last one is the asset with many changes.
    let items: Vec<Value> = (0..=assets).map(item).collect();
    let text = json!({ "fileVersion": "1.0", "configurationItems": items }).to_string();
    let path = folder.join("snapshot.json");
    std::fs::write(&path, &text).unwrap();
    let start = Instant::now();
    let output = catchment().arg("import").arg(&path).arg("--config").arg(config).output();
    let output = output.unwrap();
    let took = start.elapsed().as_secs_f64();
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(told.contains(&format!("{} imported", assets + 1)), "{told}{}", String::from_utf8_lossy(&output.stderr));
    let megabytes = text.len() as f64 / 1e6;
    println!(
        "{} items of an AWS Config snapshot ({megabytes:.1} MB) imported in {took:.2} s: {:.0} items/s, {:.1} MB/s, the start of the program included",
        assets + 1,
        (assets + 1) as f64 / took,
        megabytes / took
    );
}

/// Records that open and close a port of each group in turn.
fn trail_of(assets: usize, records: usize) -> String {
    let mut lines = Vec::with_capacity(records + OF_ONE);
    for n in 0..records {
        lines.push((n, record(n % assets, n, n / assets)));
        if n % (records / OF_ONE) == 0 {
            let nth = n / (records / OF_ONE);
            lines.push((n, record(assets, n, nth)));
        }
    }
    // A minute late.
    lines.sort_by_key(|(n, _)| if n % 100 == 50 { n + 60 } else { *n });
    let mut text = String::new();
    for (_, line) in lines {
        writeln!(text, "{line}").unwrap();
    }
    text
}

fn record(asset: usize, second: usize, nth: usize) -> Value {
    let (group, port) = (format!("sg-{asset:017x}"), 1 + nth / 2 % 50);
    let rule = json!({ "groupId": group, "securityGroupRuleId": format!("sgr-{port}"), "isEgress": false, "ipProtocol": "tcp",
        "fromPort": port, "toPort": port, "cidrIpv4": "203.0.113.0/24" });
    let (name, response) = match nth % 2 {
        0 => ("AuthorizeSecurityGroupIngress", json!({ "_return": true, "securityGroupRuleSet": { "items": [rule] } })),
        _ => ("RevokeSecurityGroupIngress", json!({ "_return": true })),
    };
    let permission = json!({ "ipProtocol": "tcp", "fromPort": port, "toPort": port,
        "ipRanges": { "items": [{ "cidrIp": "203.0.113.0/24" }] } });
    json!({
        "eventVersion": "1.08", "eventID": format!("{asset}-{nth}"), "eventTime": time(START + 1 + i64::try_from(second).unwrap()),
        "eventSource": "ec2.amazonaws.com", "eventName": name, "awsRegion": "eu-west-1", "recipientAccountId": ACCOUNT,
        "sourceIPAddress": "192.0.2.10", "userAgent": "aws-cli/2.15.0", "userIdentity": { "type": "IAMUser", "userName": "jane",
            "principalId": "AIDAEXAMPLE", "accountId": ACCOUNT, "arn": format!("arn:aws:iam::{ACCOUNT}:user/jane") },
        "requestParameters": { "groupId": group, "ipPermissions": { "items": [permission] } }, "responseElements": response,
    })
}

struct Server {
    child: Child,
    url: String,
    agent: ureq::Agent,
}

impl Server {
    fn start(config: &Path) -> Self {
        let mut command = catchment();
        command.args(["serve", "--listen", "127.0.0.1:0", "--log-format", "json", "--config"]).arg(config);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let address = lines.by_ref().map_while(Result::ok).find_map(|line| {
            let fields: Value = serde_json::from_str(&line).ok()?;
            let address = fields.get("address").or_else(|| fields.get("fields")?.get("address"))?;
            address.as_str().map(str::to_owned)
        });
        // The pipe must not fill up with later output.
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
        Self { child, url: format!("http://{}", address.unwrap()), agent: ureq::Agent::new_with_defaults() }
    }

    fn get(&self, path: &str) -> String {
        let mut answer =
            self.agent.get(format!("{}{path}", self.url)).call().unwrap_or_else(|error| panic!("{path}: {error}"));
        answer.body_mut().with_config().limit(1 << 30).read_to_string().unwrap()
    }

    /// Events in the log.
    fn tail(&self) -> u64 {
        let text = self.get("/metrics");
        let line = text.lines().find_map(|line| line.strip_prefix("catchment_log_tail_sequence "));
        line.unwrap().parse::<f64>().unwrap() as u64
    }

    fn measure(&self, what: &str, paths: &[String]) {
        let mut took = Vec::with_capacity(paths.len());
        let cpu = cpu::of_process(self.child.id());
        for path in paths {
            let start = Instant::now();
            std::hint::black_box(self.get(path));
            took.push(start.elapsed().as_secs_f64() * 1e3);
        }
        let cpu = (cpu::of_process(self.child.id()) - cpu).as_secs_f64() * 1e3 / paths.len() as f64;
        took.sort_by(f64::total_cmp);
        let at = |share: f64| took[((took.len() - 1) as f64 * share) as usize];
        println!("| {what} | {:.2} | {:.2} | {cpu:.2} |", at(0.5), at(0.99));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
