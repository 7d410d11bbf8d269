//! Every fault that the broker can show, in random order and at random moments, and kills of the program in between:
//! nothing is lost, nothing is doubled, and order is kept.

use std::process::Stdio;
use std::time::Duration;

use super::{append, assert_all_once, configuration, status};
use crate::support::event_hubs::Broker;
use crate::support::server::{Server, folder, serve};
use crate::support::trail::random;

const PARTITIONS: usize = 3;
/// A service shows a fault every half a minute at worst: so many are half an hour's worth.
const FAULTS: usize = 60;
/// Events between two faults.
const EVENTS: usize = 40;

/// Shows one fault, and takes it back where it would last.
async fn fault(broker: &mut Broker, random: &mut fastrand::Rng) {
    let moment = Duration::from_millis(random.u64(10..300));
    match random.u32(0..13) {
        0 | 1 => broker.cut_connections(),
        2 => broker.detach_readers(None),
        3 => broker.detach_readers(Some(("amqp:link:detach-forced", "The link is force detached."))),
        4 => broker.detach_readers(Some(("com.microsoft:server-busy", "The server is busy."))),
        5 => broker.detach_readers(Some(("amqp:link:redirect", "Go elsewhere."))),
        6 => broker.detach_readers(Some(("amqp:internal-error", "The service was unable to process the request."))),
        7 => broker.close_connections("amqp:connection:forced", "The connection was closed for maintenance."),
        8 => broker.expire_tokens(),
        9 => broker.steal("activity", "$Default", random.usize(0..PARTITIONS)),
        10 => {
            broker.stop();
            tokio::time::sleep(moment).await;
            broker.listen().await;
        }
        11 => {
            broker.answer_tokens(Some((503, "The service is unavailable.")));
            broker.cut_connections();
            tokio::time::sleep(moment).await;
            broker.answer_tokens(None);
        }
        _ => {
            broker.fall_silent(true);
            tokio::time::sleep(moment).await;
            broker.fall_silent(false);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_or_doubled_through_faults_and_kills() {
    let mut random = random();
    let mut broker = Broker::start(&[("activity", PARTITIONS)]).await;
    let folder = folder();
    let config = configuration(folder.path(), &broker, "prefetch = 50");
    let (mut appended, mut next) = (Vec::new(), [0; PARTITIONS]);
    let mut server = Some(Server::serve(folder.path(), &config));
    for round in 0..FAULTS {
        if random.u32(0..4) == 0 {
            broker.slow_down(Duration::from_millis(random.u64(0..3)));
        }
        for _ in 0..EVENTS {
            let (partition, records) = (random.usize(0..PARTITIONS), random.usize(1..4));
            append(&broker, partition, next[partition], records);
            appended.push((partition, next[partition], records));
            next[partition] += 1;
        }
        if round == FAULTS / 2 {
            // Twice before it has even begun.
            for _ in 0..2 {
                drop(server.take());
                let mut child =
                    serve(folder.path(), &config).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
                tokio::time::sleep(Duration::from_millis(random.u64(0..400))).await;
                child.kill().unwrap();
                child.wait().unwrap();
            }
        }
        fault(&mut broker, &mut random).await;
        tokio::time::sleep(Duration::from_millis(random.u64(0..150))).await;
        if random.u32(0..5) == 0 || server.is_none() {
            if let Some(server) = server.take() {
                server.kill();
            }
            server = Some(Server::serve(folder.path(), &config));
        }
    }
    broker.slow_down(Duration::ZERO);
    let server = server.unwrap();
    let behind = || {
        let status = status(&server);
        let read = |id: usize| status["partitions"][id]["sequence"].as_u64().map_or(0, |sequence| sequence + 1);
        (0..PARTITIONS).map(|id| next[id] as u64 - read(id).min(next[id] as u64)).sum::<u64>()
    };
    server.wait_until("read to the end", || behind() == 0);
    let records: usize = appended.iter().map(|(_, _, records)| records).sum();
    super::wait_for_events(&server, records);
    assert_all_once(&server, &appended);
    assert!(server.terminate().success());
}
