//! Secrets: referenced in the configuration, stored elsewhere, and never printed.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer};

/// No secret is longer; a larger file is a mistaken path.
const MAX_BYTES: u64 = 64 * 1024;

/// A secret, read from the place that the configuration names: `env:NAME` or `file:/absolute/path`.
///
/// `Debug` and `Display` print `[secret]`, and there is no `Serialize`, so that no log line, error or API answer can
/// show it. [`expose`](Secret::expose) is the only way to the value, and easy to search for.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

/// Why a secret can't be had. Never holds the secret.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The configuration holds something else than a reference, most likely the secret itself.
    #[error(
        "a secret can't be written in the configuration itself: put it into an environment variable or a file, and write \
         \"env:NAME\" or \"file:/path\" here"
    )]
    Literal,
    /// The environment variable does not exist.
    #[error("environment variable {0} is not set")]
    NotSet(String),
    /// The place exists, and nothing is in it.
    #[error("{0} is empty")]
    Empty(String),
    /// The value is not UTF-8.
    #[error("{0} is not UTF-8 text")]
    NotText(String),
    /// A relative path depends on where the process was started.
    #[error("secret file {0:?} must be an absolute path, such as file:/run/secrets/name")]
    RelativePath(String),
    /// The file is no secret.
    #[error("{0} is larger than {MAX_BYTES} bytes, too large for a secret")]
    TooLarge(String),
    /// The file can't be read.
    #[error("read {path}: {cause}")]
    Unreadable {
        /// The file.
        path: String,
        /// What the system said.
        cause: std::io::Error,
    },
}

impl Secret {
    /// Reads the secret that a reference names. Line breaks at the end of a file are not part of it.
    ///
    /// # Errors
    /// When the text is no reference, or nothing usable is where it points.
    pub fn from_reference(reference: &str) -> Result<Self, SecretError> {
        let (value, place) = if let Some(name) = reference.strip_prefix("env:") {
            (read_variable(name)?, format!("environment variable {name}"))
        } else if let Some(path) = reference.strip_prefix("file:") {
            (read_file(path)?, path.to_owned())
        } else {
            return Err(SecretError::Literal);
        };
        if value.is_empty() { Err(SecretError::Empty(place)) } else { Ok(Self(value)) }
    }

    /// The value, for the one call that needs it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

fn read_variable(name: &str) -> Result<String, SecretError> {
    std::env::var(name).map_err(|error| match error {
        std::env::VarError::NotPresent => SecretError::NotSet(name.to_owned()),
        std::env::VarError::NotUnicode(_) => SecretError::NotText(format!("environment variable {name}")),
    })
}

fn read_file(path: &str) -> Result<String, SecretError> {
    if !path.starts_with('/') {
        return Err(SecretError::RelativePath(path.to_owned()));
    }
    let unreadable = |cause| SecretError::Unreadable { path: path.to_owned(), cause };
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(unreadable)?;
    std::io::Read::read_to_end(&mut std::io::Read::take(file, MAX_BYTES + 1), &mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(SecretError::TooLarge(path.to_owned()));
    }
    let text = String::from_utf8(bytes).map_err(|_| SecretError::NotText(path.to_owned()))?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

impl<'de> Deserialize<'de> for Secret {
    /// Resolves the reference at once, so that a missing secret is reported with the key that asks for it.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reference;
        impl de::Visitor<'_> for Reference {
            type Value = Secret;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"env:NAME\" or \"file:/path\"")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Secret, E> {
                Secret::from_reference(text).map_err(E::custom)
            }
            // A number would otherwise be quoted in the error, and it may be the secret.
            fn visit_i64<E: de::Error>(self, _: i64) -> Result<Secret, E> {
                Err(E::custom(SecretError::Literal))
            }
        }
        deserializer.deserialize_str(Reference)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(serde::Deserialize, Debug)]
    struct Holder {
        key: Secret,
    }

    fn parse(value: &str) -> Result<Holder, String> {
        toml::from_str(&format!("key = {value}")).map_err(|error: toml::de::Error| error.message().to_owned())
    }

    fn file_with(content: &[u8]) -> (tempfile::TempDir, String) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        std::fs::write(&path, content).unwrap();
        let reference = format!("\"file:{}\"", path.display());
        (dir, reference)
    }

    #[test]
    fn a_secret_is_never_printed() {
        let (_dir, reference) = file_with(b"hunter2\n");
        let holder = parse(&reference).unwrap();
        assert_eq!(holder.key.expose(), "hunter2");
        assert_eq!(format!("{holder:?} {}", holder.key), "Holder { key: [secret] } [secret]");
    }

    #[test]
    fn a_literal_is_refused_without_repeating_it() {
        for literal in ["\"hunter2\"", "4711", "\"ENV:HOME\""] {
            let message = parse(literal).unwrap_err();
            assert!(message.contains("env:NAME") && !message.contains(literal.trim_matches('"')), "{message}");
        }
    }

    #[test]
    fn what_is_wrong_with_the_place_is_named() {
        assert!(parse("\"env:CATCHMENT_NO_SUCH_VARIABLE\"").unwrap_err().contains("NO_SUCH_VARIABLE is not set"));
        assert!(parse("\"file:relative\"").unwrap_err().contains("absolute"));
        assert!(parse("\"file:/no/such/file\"").unwrap_err().starts_with("read /no/such/file: "));
        let (_dir, reference) = file_with(b"\r\n");
        assert!(parse(&reference).unwrap_err().ends_with("is empty"));
        let (_dir, reference) = file_with(&[0xff]);
        assert!(parse(&reference).unwrap_err().contains("not UTF-8"));
        let (_dir, reference) = file_with(&vec![b'x'; 65 * 1024]);
        assert!(parse(&reference).unwrap_err().contains("larger than 65536 bytes"));
    }

    #[test]
    fn a_variable_is_read() {
        // Set by cargo for every test process.
        let name = std::env::var("CARGO_PKG_NAME").unwrap();
        assert_eq!(Secret::from_reference("env:CARGO_PKG_NAME").unwrap().expose(), name);
    }
}
