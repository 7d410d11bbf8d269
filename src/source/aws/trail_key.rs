//! Keys of a trail's bucket: what an object is, by its name alone
//! (<https://docs.aws.amazon.com/awscloudtrail/latest/userguide/get-and-view-cloudtrail-log-files.html>):
//!
//! ```text
//! [prefix/]AWSLogs/[o-exampleorgid/]111122223333/CloudTrail/eu-west-1/2026/02/03/111122223333_CloudTrail_eu-west-1_20260203T0405Z_AbCdEf0123456789.json.gz
//! ```

/// A reason why an object is not read, as a label of metrics.
pub(crate) const DIGEST: &str = "digest file";
/// See [`DIGEST`].
pub(crate) const INSIGHT: &str = "Insights events";
/// See [`DIGEST`].
pub(crate) const FOREIGN: &str = "not a CloudTrail log file";

/// The kind of an object in a trail's bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TrailObject<'a> {
    /// A log file.
    Log {
        /// The key up to the region, shared by the log files of one account and region. The history of an asset is in
        /// one lane, in key order.
        lane: &'a str,
    },
    /// Another kind of object.
    Skipped(&'static str),
}

/// Classifies an object by its key. Log files that were copied elsewhere are recognized by file name; their folder is
/// their lane then.
pub(crate) fn classify(key: &str) -> TrailObject<'_> {
    let (folder, name) = key.rsplit_once('/').unwrap_or(("", key));
    let is = |segment: &str| folder.split('/').any(|part| part == segment) || name.contains(&format!("_{segment}_"));
    if name.is_empty() {
        TrailObject::Skipped(FOREIGN)
    } else if is("CloudTrail-Digest") {
        TrailObject::Skipped(DIGEST)
    } else if is("CloudTrail-Insight") {
        TrailObject::Skipped(INSIGHT)
    } else if is("CloudTrail") && (name.ends_with(".json.gz") || name.ends_with(".json")) {
        TrailObject::Log { lane: lane(folder) }
    } else {
        TrailObject::Skipped(FOREIGN)
    }
}

/// The folder without the date at its end.
fn lane(folder: &str) -> &str {
    let mut rest = folder;
    for _ in 0..3 {
        match rest.rsplit_once('/') {
            Some((before, part)) if !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()) => rest = before,
            _ => return folder,
        }
    }
    rest
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn objects_are_known_by_their_keys() {
        let log = |lane| TrailObject::Log { lane };
        let folder = "logs/AWSLogs/o-a1b2c3d4e5/111122223333/CloudTrail/eu-west-1";
        let name = "111122223333_CloudTrail_eu-west-1_20260203T0405Z_AbCdEf0123456789.json.gz";
        assert_eq!(classify(&format!("{folder}/2026/02/03/{name}")), log(folder));
        assert_eq!(classify(&format!("copies/{name}")), log("copies"));
        assert_eq!(classify(name), log(""));
        let digest = "AWSLogs/111122223333/CloudTrail-Digest/eu-west-1/2026/02/03/111122223333_CloudTrail-Digest_eu-west-1_trail_eu-west-1_20260203T040506Z.json.gz";
        assert_eq!(classify(digest), TrailObject::Skipped(DIGEST));
        let insight = "AWSLogs/111122223333/CloudTrail-Insight/eu-west-1/2026/02/03/111122223333_CloudTrail-Insight_eu-west-1_20260203T0405Z_a.json.gz";
        assert_eq!(classify(insight), TrailObject::Skipped(INSIGHT));
        for key in [
            "AWSLogs/111122223333/Config/eu-west-1/2026/2/3/ConfigHistory/111122223333_Config_eu-west-1_x.json.gz",
            "AWSLogs/111122223333/vpcflowlogs/eu-west-1/2026/02/03/a.log.gz",
            "AWSLogs/111122223333/CloudTrail/eu-west-1/2026/02/03/",
            "AWSLogs/111122223333/CloudTrail/",
            "",
        ] {
            assert_eq!(classify(key), TrailObject::Skipped(FOREIGN), "{key}");
        }
    }

    proptest! {
        #[test]
        fn a_lane_is_a_prefix_of_the_key(key in "[a-zA-Z0-9/_.-]{0,80}(/CloudTrail/[0-9/]{0,12})?x_CloudTrail_y\\.json\\.gz") {
            let TrailObject::Log { lane } = classify(&key) else { return Ok(()) };
            prop_assert!(key.starts_with(lane));
        }
    }
}
