//! `normalizers/seed/forms.toml`: what the forms call the types, and which of their lists hold no assets.

use std::collections::{HashMap, HashSet};

use serde::Deserialize;

use super::super::pointer::Path;

/// The tables.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::normalize) struct Forms {
    /// Member of an answer of the `aws` command → provider type, for those whose elements have no ARN.
    pub(super) cli: HashMap<String, String>,
    /// Type of Terraform → provider type, for those that have no ARN, or the ARN of something else.
    pub(super) terraform: HashMap<String, String>,
    /// Type of Terraform → object of Microsoft Graph.
    pub(super) terraform_directory: HashMap<String, String>,
    /// Collection of Microsoft Graph → what the directory's audit calls the type.
    pub(super) directory: HashMap<String, String>,
    /// Members of answers that hold no assets.
    pub(super) ignored: HashSet<String>,
    /// Members that tell the ARN of a thing described alone, the first that is there.
    pub(super) own_arns: Vec<String>,
    /// Pointers into the view of an item whose values are secrets.
    redact: Vec<String>,
}

impl Forms {
    /// What the directory's audit calls the type of a collection of Microsoft Graph.
    pub(in crate::normalize) fn directory(&self, collection: &str) -> Option<&str> {
        self.directory.get(collection).map(String::as_str)
    }

    /// The pointers of secrets; of those that are none, the text.
    pub(in crate::normalize) fn redact(&self) -> Result<Vec<Path>, String> {
        self.redact.iter().map(|text| parsed(text)).collect()
    }

    /// The same for items that were not understood and are kept as they came, whatever their form: a configuration, or
    /// something that holds one. What Terraform's state calls sensitive can't be told apart without understanding it.
    pub(in crate::normalize) fn redact_rejected(&self) -> Result<Vec<Path>, String> {
        let bare = self.redact.iter().filter_map(|text| text.strip_prefix("/configuration"));
        let all = self.redact.iter().map(String::as_str).chain(bare).chain(["/instances/*/attributes"]);
        all.map(parsed).collect()
    }
}

fn parsed(text: &str) -> Result<Path, String> {
    Path::parse(text).map_err(|error| format!("{text:?}: {error}"))
}
