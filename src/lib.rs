//! Catchment turns the audit trails of cloud providers into one live stream of asset changes.
//!
//! The life of one event: a [`source`] hands records to the [`ingest`] loop; [`normalize`] turns each into drafts of
//! changes by declarative rules; the [`inventory`] adds what the asset was before; the [`log`] makes the result
//! durable, which is when the source may acknowledge; the [`hub`] encodes it once for every subscriber of [`http`].
//! `docs/ARCHITECTURE.md` has the details.

pub mod app;
pub mod auth;
pub mod cli;
pub mod config;
pub mod correlate;
pub mod decode;
pub mod descriptors;
pub mod fixture;
pub mod history;
pub mod http;
pub mod hub;
pub mod ingest;
pub mod inventory;
pub mod json;
pub mod log;
pub mod memory;
pub mod metrics;
pub mod model;
pub mod normalize;
pub mod reload;
pub mod retry;
pub mod secret;
pub mod shutdown;
pub mod source;
pub mod telemetry;
pub mod tls;
