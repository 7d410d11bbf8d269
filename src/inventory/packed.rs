//! Compact storage for assets that did not change lately.
//!
//! An asset is kept as the bytes that the log stores, compressed (zstd) with a dictionary of the first few assets of
//! its type: configurations of one type have the same members and mostly the same values. Assets of a type with too few
//! assets for a dictionary are not packed.

use std::cell::RefCell;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};

use zstd::zstd_safe::{CCtx, CDict, DCtx, DDict, compress_bound};

use super::stored::{Held, Outline};
use super::{ConfigurationState, RestoreError};
use crate::model::{AssetName, FastMap, Time};

/// A dictionary is made of assets amounting to this many bytes,
const DICTIONARY_BYTES: usize = 4 << 10;
/// or of this many assets, if they are small.
const DICTIONARY_ASSETS: usize = 16;
/// The beginning of a dictionary (RFC 8878, section 5): magic number, and no id.
const HEAD: [u8; 8] = [0x37, 0xA4, 0x30, 0xEC, 0, 0, 0, 0];
/// The entropy tables of every dictionary, so that none are made for each asset, which took a third of the time. They
/// are those of a dictionary of 16 KB that zstd's trainer (`ZDICT_trainFromBuffer`) made of the demo's assets in their
/// stored form, up to where its content begins. They need not fit well.
const ENTROPY_TABLES: &[u8] = include_bytes!("packed/entropy_tables.bin");
/// The zstd level. Most of an asset is in the dictionary: higher levels take longer and gain little.
const LEVEL: i32 = -3;
/// Maximum capacity of the buffer that each thread keeps, in bytes: few assets are larger.
const BUFFER_BYTES: usize = 1 << 20;

thread_local! {
    // Contexts are reused, as they keep their working memory from one asset to the next.
    static COMPRESSOR: RefCell<(Option<CCtx<'static>>, Vec<u8>)> = RefCell::new((CCtx::try_create(), Vec::new()));
    static DECOMPRESSOR: RefCell<Option<DCtx<'static>>> = RefCell::new(DCtx::try_create());
}

/// A compressed asset, and uncompressed what lists of assets show.
#[derive(Debug)]
pub(super) struct Packed {
    kind: Arc<Kind>,
    place: Arc<Place>,
    state: ConfigurationState,
    changed: Time,
    /// Length of the uncompressed form in bytes.
    length: u32,
    compressed: Box<[u8]>,
}

impl Packed {
    /// The fields by which lists select assets.
    pub(super) fn outline<'a>(&'a self, name: &'a AssetName) -> Outline<'a> {
        Outline {
            name,
            neutral_type: &self.kind.neutral_type,
            provider: &self.kind.provider,
            account: &self.place.account,
            region: &self.place.region,
            state: self.state,
            changed: self.changed,
        }
    }

    pub(super) fn changed(&self) -> Time {
        self.changed
    }

    pub(super) fn is_alive(&self) -> bool {
        self.state != ConfigurationState::Deleted
    }

    /// Decompresses the asset. Its name is read too, unless it is given.
    ///
    /// # Errors
    /// When the bytes are not what was packed, which would be a memory fault.
    pub(super) fn unpack(&self, name: Option<&AssetName>) -> Result<Held, RestoreError> {
        let dictionary = self.kind.dictionary.get().ok_or(RestoreError::Unpack)?;
        let mut stored = Vec::with_capacity(usize::try_from(self.length).unwrap_or_default());
        DECOMPRESSOR.with_borrow_mut(|context| {
            let context = context.as_mut().ok_or(RestoreError::Unpack)?;
            let unpacked = context.decompress_using_ddict(&mut stored, &self.compressed, &dictionary.decompress);
            unpacked.map_err(|_| RestoreError::Unpack)
        })?;
        Held::restore(stored.into(), name)
    }

    /// Approximate size in memory of an asset with this name, in bytes.
    pub(super) fn size(&self, name: &AssetName) -> usize {
        // Entries in the maps, and the allocator's overhead.
        const FIXED: usize = 200;
        FIXED + size_of::<Self>() + self.compressed.len() + 2 * name.as_str().len()
    }
}

/// Packs assets. Holds the dictionaries, and one copy of every type and place.
#[derive(Debug, Default)]
pub(super) struct Packer {
    /// By the provider's type.
    kinds: Interned<Kind>,
    /// By account.
    places: Interned<Place>,
}

impl Packer {
    /// Packs an asset. `None` if too few assets of its type have been offered so far, or if compression fails.
    pub(super) fn pack(&self, asset: &Held) -> Option<Packed> {
        let (stored, fields) = (asset.stored(), asset.fields());
        let kind = self.kinds.get(
            fields.provider_type,
            |kind| *kind.provider == *fields.provider && *kind.neutral_type == *fields.neutral_type,
            || Kind::new(fields.provider, fields.neutral_type),
        );
        let dictionary = kind.dictionary(stored)?;
        let compressed = COMPRESSOR.with_borrow_mut(|(context, buffer)| {
            buffer.clear();
            buffer.reserve(compress_bound(stored.len()));
            context.as_mut()?.compress_using_cdict(buffer, stored, &dictionary.compress).ok()?;
            let compressed = Box::from(buffer.as_slice());
            buffer.shrink_to(BUFFER_BYTES);
            Some(compressed)
        })?;
        let place = self.places.get(
            fields.account,
            |place| *place.region == *fields.region,
            || Place { account: fields.account.into(), region: fields.region.into() },
        );
        let length = u32::try_from(stored.len()).ok()?;
        Some(Packed { kind, place, state: fields.state, changed: fields.changed, length, compressed })
    }
}

/// A type of asset, with its dictionary.
#[derive(Debug)]
struct Kind {
    provider: Box<str>,
    neutral_type: Box<str>,
    samples: Mutex<Samples>,
    dictionary: OnceLock<Dictionary>,
}

/// The assets that the dictionary will be made of.
#[derive(Debug, Default)]
struct Samples {
    bytes: Vec<u8>,
    count: usize,
}

struct Dictionary {
    compress: CDict<'static>,
    decompress: DDict<'static>,
}

impl std::fmt::Debug for Dictionary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Dictionary")
    }
}

impl Kind {
    fn new(provider: &str, neutral_type: &str) -> Self {
        Self {
            provider: provider.into(),
            neutral_type: neutral_type.into(),
            samples: Mutex::default(),
            dictionary: OnceLock::new(),
        }
    }

    /// The dictionary of the type; as long as there is none, `stored` is added to its samples.
    fn dictionary(&self, stored: &[u8]) -> Option<&Dictionary> {
        if let Some(dictionary) = self.dictionary.get() {
            return Some(dictionary);
        }
        let mut samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        samples.bytes.extend(stored.iter().take(DICTIONARY_BYTES));
        samples.count += 1;
        if samples.bytes.len() < DICTIONARY_BYTES && samples.count < DICTIONARY_ASSETS {
            return None;
        }
        let bytes = [&HEAD[..], ENTROPY_TABLES, &std::mem::take(&mut samples.bytes)].concat();
        let (compress, decompress) = (CDict::try_create(&bytes, LEVEL)?, DDict::try_create(&bytes)?);
        Some(self.dictionary.get_or_init(|| Dictionary { compress, decompress }))
    }
}

/// The account and region of assets.
#[derive(Debug)]
struct Place {
    account: Box<str>,
    region: Box<str>,
}

/// Values kept once each: found by a text, and among the few with the same text by a predicate.
#[derive(Debug)]
struct Interned<T>(RwLock<FastMap<Box<str>, Vec<Arc<T>>>>);

impl<T> Default for Interned<T> {
    fn default() -> Self {
        Self(RwLock::default())
    }
}

impl<T> Interned<T> {
    fn get(&self, text: &str, is: impl Fn(&T) -> bool, make: impl FnOnce() -> T) -> Arc<T> {
        let find = |known: &[Arc<T>]| known.iter().find(|value| is(value)).map(Arc::clone);
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = known.get(text).and_then(|known| find(known)) {
            return found;
        }
        drop(known);
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let known = known.entry(text.into()).or_default();
        find(known).unwrap_or_else(|| {
            let made = Arc::new(make());
            known.push(Arc::clone(&made));
            made
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What zstd takes for mere content is never refused: then the tables would go unnoticed.
    #[test]
    fn the_entropy_tables_are_taken_for_such() {
        let content = [b' '; 64];
        let whole = [&HEAD[..], ENTROPY_TABLES, &content].concat();
        let torn = [&HEAD[..], &ENTROPY_TABLES[..40], &content].concat();
        assert!(CDict::try_create(&whole, LEVEL).is_some() && DDict::try_create(&whole).is_some());
        assert!(CDict::try_create(&torn, LEVEL).is_none() && DDict::try_create(&torn).is_none());
    }
}
