//! Configurations that were parsed or made lately, for the next change of the same asset.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use serde_json::Value;

use super::parse_object;
use super::stored::Held;

/// A configuration as a document, as long as [`Documents`] keeps it.
#[derive(Clone, Default)]
pub(super) struct Parsed {
    /// What it is of: whoever puts another configuration into a copy of an asset need not think of this.
    json: Bytes,
    document: Weak<Value>,
}

impl Parsed {
    pub(super) fn of(json: Option<&Bytes>, document: Option<&Arc<Value>>) -> Self {
        let known = json.zip(document);
        known.map_or_else(Self::default, |(json, document)| Self {
            json: json.clone(),
            document: Arc::downgrade(document),
        })
    }
}

impl fmt::Debug for Parsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not a part of what is held.
        f.write_str("_")
    }
}

impl Held {
    /// The configuration, to look into.
    pub(super) fn document(&self) -> Option<Arc<Value>> {
        let json = self.configuration.as_ref()?;
        let same = (self.parsed.json.as_ptr(), self.parsed.json.len()) == (json.as_ptr(), json.len());
        let known = if same { self.parsed.document.upgrade() } else { None };
        Some(known.unwrap_or_else(|| Arc::new(parse_object(json))))
    }
}

/// Keeps the latest documents: what was just created is often changed again at once. Bounded by bytes; the oldest goes
/// first.
#[derive(Debug)]
pub(super) struct Documents {
    latest: VecDeque<(Arc<Value>, usize)>,
    bytes: usize,
    max_bytes: usize,
}

impl Default for Documents {
    fn default() -> Self {
        Self::with_limit(16 << 20)
    }
}

impl Documents {
    /// A document takes about so many times the memory of its JSON.
    const EXPANSION: usize = 5;

    pub(super) fn with_limit(max_bytes: usize) -> Self {
        Self { latest: VecDeque::new(), bytes: 0, max_bytes }
    }

    pub(super) fn keep(&mut self, document: &Arc<Value>, json_bytes: usize) {
        let bytes = Self::EXPANSION * json_bytes;
        self.latest.push_back((Arc::clone(document), bytes));
        self.bytes += bytes;
        while self.bytes > self.max_bytes {
            let Some((_, bytes)) = self.latest.pop_front() else { return };
            self.bytes -= bytes;
        }
    }
}
