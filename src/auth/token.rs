//! Bearer tokens of our own: how they look, and the file that knows them by their hash.
//!
//! A token is 32 random bytes behind a word by which secret scanners know it. Only its SHA-256 is kept: with that much
//! randomness there is nothing that a slower hash would protect.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};

use aws_lc_rs::{constant_time, digest, rand};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::scope::ScopeText;
use crate::model::Time;

/// The prefix of every token.
pub const PREFIX: &str = "catchment_";
const SECRET_BYTES: usize = 32;

/// The SHA-256 of a token.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TokenHash([u8; digest::SHA256_OUTPUT_LEN]);

impl TokenHash {
    /// Hashes a token.
    #[must_use]
    pub fn of(token: &str) -> Self {
        let mut hash = [0; digest::SHA256_OUTPUT_LEN];
        hash.copy_from_slice(digest::digest(&digest::SHA256, token.as_bytes()).as_ref());
        Self(hash)
    }

    /// Compares in constant time.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        constant_time::verify_slices_are_equal(&self.0, &other.0).is_ok()
    }
}

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl Serialize for TokenHash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{self:?}"))
    }
}

impl<'de> Deserialize<'de> for TokenHash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = URL_SAFE_NO_PAD.decode(&text).ok().and_then(|bytes| bytes.try_into().ok());
        bytes.map(Self).ok_or_else(|| de::Error::custom(format_args!("{text:?} is not a SHA-256 hash in base64url")))
    }
}

/// The stored form of a token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenRecord {
    /// Its unique name.
    pub name: String,
    /// Its SHA-256, in base64url.
    pub sha256: TokenHash,
    /// When it was created.
    pub created: Time,
    /// When it expires; `None`: never.
    pub expires: Option<Time>,
    /// Its scope.
    #[serde(default, skip_serializing_if = "is_empty")]
    pub scope: ScopeText,
}

fn is_empty(scope: &ScopeText) -> bool {
    scope.0.is_empty()
}

/// Why an operation on tokens failed.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The file or its folder can't be read or written.
    #[error("{action} {path}: {cause}", path = path.display())]
    File {
        /// The action.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's error.
        cause: io::Error,
    },
    /// The file is not a valid tokens file.
    #[error("{path}: {cause}; restore the file, or delete it and create new tokens", path = path.display())]
    Broken {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        cause: serde_json::Error,
    },
    /// The name has characters that are not permitted.
    #[error("{name:?} is not a token name: it must be 1 to 63 of a-z, 0-9, ., _ and -")]
    Name {
        /// The given name.
        name: String,
    },
    /// The name is in use.
    #[error("token {name} exists already; revoke it first, or use another name")]
    Taken {
        /// The name.
        name: String,
    },
    /// No token has this name.
    #[error("there is no token {name}; catchment token list shows all")]
    Unknown {
        /// The name.
        name: String,
    },
    /// The system provides no random bytes.
    #[error("the system provides no random bytes")]
    Random,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Contents {
    tokens: Vec<TokenRecord>,
}

/// The tokens file. Several processes may use it concurrently.
#[derive(Clone, Debug)]
pub struct TokenFile {
    path: PathBuf,
}

impl TokenFile {
    /// The file at a path, which need not exist.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// The default file of a data directory.
    #[must_use]
    pub fn of(data_dir: &Path) -> Self {
        Self::new(data_dir.join("tokens.json"))
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads all tokens; none if the file does not exist.
    ///
    /// # Errors
    /// When the file can't be read, or is invalid.
    pub fn read(&self) -> Result<Vec<TokenRecord>, TokenError> {
        let text = match fs::read(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(cause) => return Err(self.failed("read", cause)),
        };
        let contents: Contents =
            serde_json::from_slice(&text).map_err(|cause| TokenError::Broken { path: self.path.clone(), cause })?;
        Ok(contents.tokens)
    }

    /// Creates a token and returns it. It can't be retrieved later, since only its hash is stored.
    ///
    /// # Errors
    /// When the name is invalid or in use, or the file can't be written.
    pub fn create(
        &self,
        name: &str,
        scope: ScopeText,
        created: Time,
        expires: Option<Time>,
    ) -> Result<String, TokenError> {
        if !is_name(name) {
            return Err(TokenError::Name { name: name.to_owned() });
        }
        let token = new_token()?;
        let record = TokenRecord { name: name.to_owned(), sha256: TokenHash::of(&token), created, expires, scope };
        self.change(|tokens| {
            if tokens.iter().any(|token| token.name == name) {
                return Err(TokenError::Taken { name: name.to_owned() });
            }
            tokens.push(record);
            Ok(())
        })?;
        Ok(token)
    }

    /// Revokes a token.
    ///
    /// # Errors
    /// When there is none of this name, or the file can't be written.
    pub fn revoke(&self, name: &str) -> Result<(), TokenError> {
        self.change(|tokens| {
            let before = tokens.len();
            tokens.retain(|token| token.name != name);
            if tokens.len() == before { Err(TokenError::Unknown { name: name.to_owned() }) } else { Ok(()) }
        })
    }

    /// Reads, changes and replaces the file, under a lock between processes.
    fn change(&self, change: impl FnOnce(&mut Vec<TokenRecord>) -> Result<(), TokenError>) -> Result<(), TokenError> {
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        fs::create_dir_all(folder).map_err(|cause| self.failed("create the folder of", cause))?;
        let lock = private(folder, &self.path.with_extension("lock")).map_err(|cause| self.failed("lock", cause))?;
        lock.lock().map_err(|cause| self.failed("lock", cause))?;
        let mut tokens = self.read()?;
        change(&mut tokens)?;
        let text = serde_json::to_vec_pretty(&Contents { tokens })
            .map_err(|cause| TokenError::Broken { path: self.path.clone(), cause })?;
        self.replace(folder, &text).map_err(|cause| self.failed("write", cause))
    }

    /// Replaces the file atomically, also in case of a power failure.
    fn replace(&self, folder: &Path, text: &[u8]) -> io::Result<()> {
        let temporary = self.path.with_extension("new");
        let mut file = private(folder, &temporary)?;
        file.set_len(0)?;
        file.write_all(text)?;
        file.sync_all()?;
        fs::rename(&temporary, &self.path)?;
        File::open(folder)?.sync_all()
    }

    fn failed(&self, action: &'static str, cause: io::Error) -> TokenError {
        TokenError::File { action, path: self.path.clone(), cause }
    }
}

/// Creates a file readable by its owner only. The owner is the folder's, so that root can create tokens for the server.
fn private(folder: &Path, path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().create(true).write(true).truncate(false).mode(0o600).open(path)?;
    let (own, wanted) = (file.metadata()?, folder.metadata()?);
    if (own.uid(), own.gid()) == (wanted.uid(), wanted.gid()) {
        return Ok(file);
    }
    match fchown(&file, Some(wanted.uid()), Some(wanted.gid())) {
        // Only root may give files away; anybody else keeps what is theirs.
        Err(error) if error.kind() != io::ErrorKind::PermissionDenied => Err(error),
        _ => Ok(file),
    }
}

/// A random secret of 256 bits with the prefix.
pub(super) fn new_token() -> Result<String, TokenError> {
    random(PREFIX)
}

pub(super) fn random(prefix: &str) -> Result<String, TokenError> {
    let mut secret = [0; SECRET_BYTES];
    rand::fill(&mut secret).map_err(|_| TokenError::Random)?;
    Ok(format!("{prefix}{}", URL_SAFE_NO_PAD.encode(secret)))
}

fn is_name(name: &str) -> bool {
    let legal = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-');
    matches!(name.len(), 1..=63) && name.bytes().all(legal)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> (tempfile::TempDir, TokenFile) {
        let folder = tempfile::tempdir().unwrap();
        let file = TokenFile::of(&folder.path().join("data"));
        (folder, file)
    }

    fn now() -> Time {
        Time::from_millis(1_700_000_000_000)
    }

    #[test]
    fn a_token_is_known_by_its_hash_until_it_is_revoked() {
        let (_folder, file) = file();
        assert_eq!(file.read().unwrap(), []);
        let token = file.create("soc", ScopeText::default(), now(), None).unwrap();
        let other = file.create("dash", ScopeText::default(), now(), Some(now())).unwrap();
        assert!(token.starts_with(PREFIX) && token.len() == PREFIX.len() + 43 && token != other);
        let read = file.read().unwrap();
        assert!(read[0].sha256.is(&TokenHash::of(&token)) && !read[0].sha256.is(&TokenHash::of(&other)));
        let text = fs::read_to_string(file.path()).unwrap();
        assert!(!text.contains(&token[PREFIX.len()..]), "the token itself must not be kept: {text}");
        file.revoke("soc").unwrap();
        assert_eq!(file.read().unwrap().iter().map(|token| token.name.as_str()).collect::<Vec<_>>(), ["dash"]);
    }

    #[test]
    fn names_are_unique_plain_and_known() {
        let (_folder, file) = file();
        file.create("a", ScopeText::default(), now(), None).unwrap();
        assert!(matches!(file.create("a", ScopeText::default(), now(), None), Err(TokenError::Taken { .. })));
        assert!(matches!(file.revoke("b"), Err(TokenError::Unknown { .. })));
        for name in ["", "A", "a b", "a\nb", "é"] {
            assert!(
                matches!(file.create(name, ScopeText::default(), now(), None), Err(TokenError::Name { .. })),
                "{name}"
            );
        }
    }

    #[test]
    fn a_broken_file_is_told_and_left_alone() {
        let (_folder, file) = file();
        file.create("a", ScopeText::default(), now(), None).unwrap();
        fs::write(file.path(), "{").unwrap();
        assert!(file.read().unwrap_err().to_string().contains("tokens.json: EOF"));
        assert!(file.create("b", ScopeText::default(), now(), None).is_err());
        assert_eq!(fs::read(file.path()).unwrap(), b"{");
    }

    #[test]
    fn two_at_once_both_come_to_stand_there() {
        let (_folder, file) = file();
        std::thread::scope(|scope| {
            for number in 0..8 {
                let file = &file;
                scope.spawn(move || file.create(&format!("t{number}"), ScopeText::default(), now(), None).unwrap());
            }
        });
        assert_eq!(file.read().unwrap().len(), 8);
    }

    #[test]
    fn only_the_owner_reads_it() {
        use std::os::unix::fs::PermissionsExt;
        let (_folder, file) = file();
        file.create("a", ScopeText::default(), now(), None).unwrap();
        assert_eq!(fs::metadata(file.path()).unwrap().permissions().mode() & 0o777, 0o600);
    }

    /// An operator who is root creates tokens for a server that is not. Only root can test this.
    #[test]
    fn the_owner_is_that_of_the_folder() {
        let (_folder, file) = file();
        let folder = file.path().parent().unwrap();
        fs::create_dir_all(folder).unwrap();
        let given = std::os::unix::fs::chown(folder, Some(65_534), Some(65_534)).is_ok();
        file.create("a", ScopeText::default(), now(), None).unwrap();
        let wanted = fs::metadata(folder).unwrap();
        assert!(!given || wanted.uid() == 65_534);
        for path in [file.path().to_owned(), file.path().with_extension("lock")] {
            let own = fs::metadata(&path).unwrap();
            assert_eq!((own.uid(), own.gid()), (wanted.uid(), wanted.gid()), "{}", path.display());
        }
    }
}
