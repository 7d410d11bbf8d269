//! `normalizers/seed/forms.toml`: the names of types in each form of item, and the lists that contain no assets.

use std::collections::{HashMap, HashSet};

use serde::Deserialize;

use super::super::pointer::Path;

/// The tables of the file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::normalize) struct Forms {
    /// Member in the output of the `aws` command → provider type, for those whose elements have no ARN.
    pub(super) cli: HashMap<String, String>,
    /// Terraform type → provider type, for those without an ARN, or with the ARN of something else.
    pub(super) terraform: HashMap<String, String>,
    /// Terraform type → Microsoft Graph object.
    pub(super) terraform_directory: HashMap<String, String>,
    /// Microsoft Graph collection → type in the directory's audit log.
    pub(super) directory: HashMap<String, String>,
    /// Members of the `aws` command's output that contain no assets.
    pub(super) ignored: HashSet<String>,
    /// Members with the own ARN of an asset that is described alone; the first present one is taken.
    pub(super) own_arns: Vec<String>,
    /// Pointers to secrets in the view of an item.
    redact: Vec<String>,
}

impl Forms {
    /// The type of a Microsoft Graph collection in the directory's audit log.
    pub(in crate::normalize) fn directory(&self, collection: &str) -> Option<&str> {
        self.directory.get(collection).map(String::as_str)
    }

    /// The pointers to secrets. The error names one that is invalid.
    pub(in crate::normalize) fn redact(&self) -> Result<Vec<Path>, String> {
        self.redact.iter().map(|text| parsed(text)).collect()
    }

    /// The pointers to secrets in rejected items, whatever their form: a configuration, or something that contains one.
    /// All of a Terraform instance's attributes are secrets, since the sensitive ones can't be recognised in an item
    /// that was not understood.
    pub(in crate::normalize) fn redact_rejected(&self) -> Result<Vec<Path>, String> {
        let bare = self.redact.iter().filter_map(|text| text.strip_prefix("/configuration"));
        let all = self.redact.iter().map(String::as_str).chain(bare).chain(["/instances/*/attributes"]);
        all.map(parsed).collect()
    }
}

fn parsed(text: &str) -> Result<Path, String> {
    Path::parse(text).map_err(|error| format!("{text:?}: {error}"))
}
