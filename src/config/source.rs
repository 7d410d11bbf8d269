//! The kinds of sources that can be configured.

use serde::Deserialize;

pub use crate::source::aws_lookup_events::LookupEventsConfig;
pub use crate::source::aws_sqs::SqsConfig;
pub use crate::source::azure_event_hubs::EventHubsConfig;
pub use crate::source::file::FileConfig;
pub use crate::source::seed::aws_config::AwsConfigConfig;
pub use crate::source::seed::resource_graph::ResourceGraphConfig;
use crate::source::seed::{aws_config, resource_graph};

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
    /// The kind, as it stands in the configuration.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::File(_) => "file",
            Self::AwsLookupEvents(_) => "aws_lookup_events",
            Self::AwsS3Sqs(_) => "aws_s3_sqs",
            Self::AwsEventbridgeSqs(_) => "aws_eventbridge_sqs",
            Self::AzureEventHubs(_) => "azure_event_hubs",
            Self::AwsConfig(_) => aws_config::KIND,
            Self::AzureResourceGraph(_) => resource_graph::KIND,
        }
    }
}
