//! The kinds of sources that can be configured.

use serde::Deserialize;

pub use crate::source::aws_lookup_events::LookupEventsConfig;
pub use crate::source::aws_sqs::SqsConfig;
pub use crate::source::azure_event_hubs::EventHubsConfig;
pub use crate::source::file::FileConfig;
pub use crate::source::seed::aws_config::AwsConfigConfig;
pub use crate::source::seed::resource_graph::ResourceGraphConfig;
use crate::source::seed::{aws_config, resource_graph};
use crate::source::{aws_lookup_events, aws_sqs, azure_event_hubs, file};

/// One `[sources.<name>.<kind>]`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SourceConfig {
    /// `[sources.<name>.file]`.
    File(FileConfig),
    /// `[sources.<name>.aws_lookup_events]`.
    AwsLookupEvents(LookupEventsConfig),
    /// `[sources.<name>.aws_s3_sqs]`.
    AwsS3Sqs(SqsConfig),
    /// `[sources.<name>.aws_eventbridge_sqs]`.
    AwsEventbridgeSqs(SqsConfig),
    /// `[sources.<name>.azure_event_hubs]`.
    AzureEventHubs(EventHubsConfig),
    /// `[sources.<name>.aws_config]`.
    AwsConfig(AwsConfigConfig),
    /// `[sources.<name>.azure_resource_graph]`.
    AzureResourceGraph(ResourceGraphConfig),
}

impl SourceConfig {
    /// The kind, as in the configuration.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::File(_) => file::KIND,
            Self::AwsLookupEvents(_) => aws_lookup_events::KIND,
            Self::AwsS3Sqs(_) => aws_sqs::S3_KIND,
            Self::AwsEventbridgeSqs(_) => aws_sqs::EVENTBRIDGE_KIND,
            Self::AzureEventHubs(_) => azure_event_hubs::KIND,
            Self::AwsConfig(_) => aws_config::KIND,
            Self::AzureResourceGraph(_) => resource_graph::KIND,
        }
    }
}
