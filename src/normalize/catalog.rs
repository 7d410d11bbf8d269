//! Loading of all rules: those compiled in, and those from a folder at run time.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use include_dir::{Dir, include_dir};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use xxhash_rust::xxh3::Xxh3;

use super::aws::GenericRules;
use super::azure;
use super::compile::{NeutralTypes, RuleError, RuleText, compile, compile_events, key_at, line_of};
use super::mentions::{MentionRules, Mentions};
use super::method::MethodRules;
use super::plan::Plan;
use super::redact::{Redaction, RedactionMistake, Secrets};
use super::references::{ArnRules, References};
use super::seed::{Forms, SeedRules};

static BUILT_IN: Dir<'static> = include_dir!("$CARGO_MANIFEST_DIR/normalizers");

/// Files of `normalizers/<provider>/` that are not rules of a service.
const SPECIAL: [&str; 6] =
    ["apps.toml", "associations.toml", "attribution.toml", "forms.toml", "generic.toml", "redact.toml"];

/// All compiled rules and tables of the normalizer.
#[derive(Debug)]
pub(super) struct Catalog {
    pub(super) aws: Plan,
    pub(super) azure: azure::Rules,
    pub(super) neutral_types: NeutralTypes,
    pub(super) generic: GenericRules,
    pub(super) methods: MethodRules,
    pub(super) mentions: Mentions,
    pub(super) secrets: Secrets,
    pub(super) seeds: SeedRules,
    /// `<crate version>+<hash of the rules>`.
    pub(super) version: Arc<str>,
}

/// An error when rules are loaded.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// The folder or a file in it can't be read.
    #[error("read rules from {path}: {cause}")]
    Unreadable {
        /// The folder or file.
        path: PathBuf,
        /// The error of the system.
        cause: std::io::Error,
    },
    /// All mistakes found in the rules.
    #[error("{} in the rules:\n{}", count(.0.len()), .0.iter().map(|error| format!("  {error}")).collect::<Vec<_>>().join("\n"))]
    Mistakes(Vec<RuleError>),
}

fn count(mistakes: usize) -> String {
    if mistakes == 1 { "1 mistake".to_owned() } else { format!("{mistakes} mistakes") }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Taxonomy {
    /// Neutral type → description.
    types: BTreeMap<String, String>,
    /// Provider type → neutral type, for assets whose rule file does not state it.
    #[serde(default)]
    aws: BTreeMap<String, String>,
    #[serde(default)]
    azure: BTreeMap<String, String>,
}

/// `normalizers/aws/associations.toml`.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct AssociationRules {
    arns: ArnRules,
    mentions: MentionRules,
}

/// The texts of all rule files, by whether they are from the operator's folder, and by file name: the built-in ones
/// come first.
struct Texts(BTreeMap<(bool, String), String>);

impl Texts {
    fn load(overrides: Option<&Path>) -> Result<Self, CatalogError> {
        let mut texts = BTreeMap::new();
        add_built_in(&BUILT_IN, &mut texts);
        if let Some(folder) = overrides {
            add_folder(folder, folder, &mut texts)?;
        }
        Ok(Self(texts))
    }

    /// Parses a special file: the operator's, else the built-in one.
    fn parse<T: DeserializeOwned>(&self, name: &str, errors: &mut Vec<RuleError>) -> Option<T> {
        self.parse_layer(self.0.contains_key(&(true, name.to_owned())), name, errors)
    }

    fn parse_layer<T: DeserializeOwned>(&self, overrides: bool, name: &str, errors: &mut Vec<RuleError>) -> Option<T> {
        let mistake = |line, key, message| RuleError { file: name.to_owned(), line, key, message };
        let Some(text) = self.0.get(&(overrides, name.to_owned())) else {
            errors.push(mistake(1, "file".to_owned(), "missing".to_owned()));
            return None;
        };
        toml::from_str(text)
            .inspect_err(|error| {
                let start = error.span().map_or(0, |span| span.start);
                errors.push(mistake(line_of(text, start), key_at(text, start), error.message().to_owned()));
            })
            .ok()
    }

    /// A mistake at a key in a special file.
    fn mistake(&self, name: &str, key: &str, message: &str) -> RuleError {
        let text = [true, false].into_iter().find_map(|overrides| self.0.get(&(overrides, name.to_owned())));
        let at = text.and_then(|text| Some(line_of(text, text.find(key)?)));
        RuleError { file: name.to_owned(), line: at.unwrap_or(1), key: key.to_owned(), message: message.to_owned() }
    }

    fn rules(&self, provider: &str) -> Vec<RuleText> {
        let of_provider = self.0.iter().filter(|((_, file), _)| {
            let name = file.strip_prefix(provider).and_then(|rest| rest.strip_prefix('/'));
            name.is_some_and(|name| !SPECIAL.contains(&name))
        });
        // Generated files come first within their layer, so that curated ones win.
        let mut texts: Vec<_> = of_provider
            .map(|((overrides, file), text)| RuleText { file: file.clone(), text: text.clone(), overrides: *overrides })
            .collect();
        texts.sort_by_key(|text| (text.overrides, !text.file.contains("/generated/"), text.file.clone()));
        texts
    }

    /// The definitions of secrets: those of the given providers, and the operator's.
    fn secrets(&self, providers: &[&str], own: &Redaction, errors: &mut Vec<RuleError>) -> Option<Secrets> {
        let files = providers.iter().map(|provider| format!("{provider}/redact.toml"));
        let parts = files.map(|file| self.parse::<Redaction>(&file, errors).map(|part| (file, part)));
        let parts = parts.collect::<Option<Vec<_>>>()?;
        for (file, part) in &parts {
            let mistakes = part.mistakes().into_iter();
            errors.extend(mistakes.map(|RedactionMistake { key, message }| self.mistake(file, key, &message)));
        }
        let all: Vec<&Redaction> = parts.iter().map(|(_, part)| part).chain([own]).collect();
        // Mistakes in the configuration are reported when it is read.
        Secrets::compile(&all)
            .map_err(|mistakes| {
                let told = mistakes.into_iter().map(|RedactionMistake { key, message }| RuleError {
                    file: "[redaction]".to_owned(),
                    line: 1,
                    key: key.to_owned(),
                    message,
                });
                if errors.is_empty() {
                    errors.extend(told);
                }
            })
            .ok()
    }

    /// The rules for Azure. `secrets` apply to its records; `listed` maps provider types to neutral types.
    fn azure(
        &self,
        secrets: Option<Secrets>,
        listed: BTreeMap<String, String>,
        neutral_types: &NeutralTypes,
        errors: &mut Vec<RuleError>,
    ) -> Option<azure::Rules> {
        for (provider_type, neutral_type) in
            listed.iter().filter(|(_, neutral_type)| !neutral_types.known.contains(*neutral_type))
        {
            let message = format!("unknown neutral type {neutral_type:?}; [types] lists them");
            errors.push(RuleError {
                file: "taxonomy.toml".into(),
                line: 1,
                key: format!("azure.{provider_type:?}"),
                message,
            });
        }
        let generic = self.parse("azure/generic.toml", errors);
        let methods = self.parse("azure/attribution.toml", errors);
        let apps = self.apps(errors);
        let (plan, mistakes) = compile("azure", &self.rules("azure"), neutral_types);
        errors.extend(mistakes);
        Some(azure::Rules::new(plan, generic?, apps?, methods?, secrets?, listed))
    }

    /// The rules for seeds of AWS assets.
    fn seeds(&self, aws: &Plan, errors: &mut Vec<RuleError>) -> Option<SeedRules> {
        let (events, mistakes) = compile_events("aws", &self.rules("seed"), &aws.assets);
        errors.extend(mistakes);
        let forms: Forms = self.parse("seed/forms.toml", errors)?;
        let paths = forms.redact().and_then(|paths| Ok((paths, forms.redact_rejected()?)));
        let paths = paths.map_err(|message| errors.push(self.mistake("seed/forms.toml", "redact", &message)));
        let (redact, redact_rejected) = paths.ok()?;
        Some(SeedRules { redact, redact_rejected, forms, events })
    }

    /// The client applications. Those of the folder are added to the built-in ones.
    fn apps(&self, errors: &mut Vec<RuleError>) -> Option<azure::Apps> {
        let mut apps: azure::Apps = self.parse_layer(false, "azure/apps.toml", errors)?;
        if self.0.contains_key(&(true, "azure/apps.toml".to_owned())) {
            let own: azure::Apps = self.parse_layer(true, "azure/apps.toml", errors)?;
            apps.apps.extend(own.apps.into_iter().map(|(id, app)| (id.to_ascii_lowercase(), app)));
        }
        Some(apps)
    }

    fn version(&self) -> Arc<str> {
        let mut hash = Xxh3::new();
        for ((_, file), text) in &self.0 {
            hash.update(file.as_bytes());
            hash.update(&[0]);
            hash.update(text.as_bytes());
            hash.update(&[0]);
        }
        let [a, b, c, d, ..] = hash.digest().to_be_bytes();
        format!("{}+{a:02x}{b:02x}{c:02x}{d:02x}", env!("CARGO_PKG_VERSION")).into()
    }
}

fn add_built_in(folder: &Dir<'static>, texts: &mut BTreeMap<(bool, String), String>) {
    for file in folder.files().filter(|file| file.path().extension().is_some_and(|extension| extension == "toml")) {
        if let Some(text) = file.contents_utf8() {
            texts.insert((false, file.path().to_string_lossy().into_owned()), text.to_owned());
        }
    }
    for folder in folder.dirs() {
        add_built_in(folder, texts);
    }
}

fn add_folder(root: &Path, folder: &Path, texts: &mut BTreeMap<(bool, String), String>) -> Result<(), CatalogError> {
    let unreadable = |path: &Path| {
        let path = path.to_owned();
        move |cause| CatalogError::Unreadable { path, cause }
    };
    for entry in std::fs::read_dir(folder).map_err(unreadable(folder))? {
        let path = entry.map_err(unreadable(folder))?.path();
        if path.is_dir() {
            add_folder(root, &path, texts)?;
        } else if path.extension().is_some_and(|extension| extension == "toml") {
            let text = std::fs::read_to_string(&path).map_err(unreadable(&path))?;
            let name = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
            texts.insert((true, name), text);
        }
    }
    Ok(())
}

impl Catalog {
    /// Loads and compiles the built-in rules and those of a folder with the same layout. `own` is the operator's
    /// redaction. Fails if the folder can't be read, or with every mistake found.
    pub(super) fn load(overrides: Option<&Path>, own: &Redaction) -> Result<Self, CatalogError> {
        let texts = Texts::load(overrides)?;
        let mut errors = Vec::new();
        let taxonomy: Option<Taxonomy> = texts.parse("taxonomy.toml", &mut errors);
        let generic = texts.parse("aws/generic.toml", &mut errors);
        let methods = texts.parse("aws/attribution.toml", &mut errors);
        let secrets = texts.secrets(&["aws"], own, &mut errors);
        let listed = taxonomy.as_ref().map(|taxonomy| taxonomy.azure.clone()).unwrap_or_default();
        let neutral_types = taxonomy.map(|taxonomy| NeutralTypes {
            known: taxonomy.types.into_keys().collect(),
            of_provider: taxonomy.aws.into_iter().collect(),
        });
        let neutral_types = neutral_types.unwrap_or_default();
        let associations: Option<AssociationRules> = texts.parse("aws/associations.toml", &mut errors);
        let (mut aws, mistakes) = compile("aws", &texts.rules("aws"), &neutral_types);
        errors.extend(mistakes);
        let AssociationRules { arns, mentions } = associations.unwrap_or_default();
        aws.references = References::new(&aws.assets, arns);
        let mentions = Mentions::new(mentions, &aws.assets).unwrap_or_else(|key| {
            errors.push(texts.mistake("aws/associations.toml", &key, "no rule file defines this type"));
            Mentions::default()
        });
        let of_azure = texts.secrets(&["aws", "azure"], own, &mut errors);
        let azure = texts.azure(of_azure, listed, &neutral_types, &mut errors);
        let seeds = texts.seeds(&aws, &mut errors);
        match (generic, methods, secrets, azure, seeds) {
            (Some(generic), Some(methods), Some(secrets), Some(azure), Some(seeds)) if errors.is_empty() => Ok(Self {
                seeds,
                neutral_types,
                secrets,
                version: texts.version(),
                mentions,
                aws,
                azure,
                generic,
                methods,
            }),
            _ => Err(CatalogError::Mistakes(errors)),
        }
    }
}
