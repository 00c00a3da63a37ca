//! Lists of prefixes in bulk, a million at a time: reading them, keeping them
//! small, finding what covers an address. Pure, and no part of the engine: it
//! judges people one by one, and a list is nobody's judgement but its source's.

mod imports;
mod list;
mod map;
mod read;

pub use imports::{Expiry, Imported, Imports, InvalidSource, ListSummary, Source};
pub use list::{List, Tally};
pub use map::PrefixMap;
pub use read::{BadLine, OnBadLine, Options, ReadError, entry, prefix, read};
