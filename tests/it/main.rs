//! The integration tests: one binary, a file per behaviour.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test fails by panicking"
)]

mod access;
mod api;
mod architecture;
mod asset_types;
mod author;
mod aws_setup;
mod aws_sqs;
mod azure_setup;
mod back_pressure;
mod backup;
mod cli;
mod clients;
mod correlation;
mod crash;
mod demo;
mod disk_faults;
mod event_hubs;
mod fixtures;
mod generated;
mod hostile;
mod hostile_clients;
mod late;
mod live_seeding;
mod lookup_events;
mod monitoring;
mod operations;
mod packaging;
mod reload;
mod schema;
mod secret_answers;
mod secrets;
mod seeding;
mod soak;
mod stop;
mod story;
mod support;
mod tls;
mod traces;
mod use_cases;
