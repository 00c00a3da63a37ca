//! Windows as bytes, for a file that outlives the process, and back. Reads and
//! writes no file and knows no policy: whoever has the file says what is written
//! when, and what becomes of a bad one.
//!
//! A file begins with a head: what the digests are made with, which boot's clock
//! the times are on, and the limiters by name. Pieces follow, each with its
//! checksum and with both clocks as they stood when it was written. A later piece
//! is right where two speak of one key, so a file of changes can follow a whole
//! one.

use std::ops::Range;

use super::{
    Key, Limits, Plan, Shape, Size, Windows,
    cell::{Cell, Head},
    inner,
    table::Table,
};
use crate::engine::{Limiter, Moment};

pub(super) const MAGIC: [u8; 8] = *b"MODLIMIT";
/// Of what follows; a file of another version is not read.
pub(super) const VERSION: u32 = 1;

/// Why windows that were written down are not read, or not all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadSnapshot {
    /// It does not begin as one, or is of another version.
    #[error("it is no file of limiter windows that this version can read")]
    Foreign,
    /// Its digests are made with another seed than the engine's.
    #[error("its keys were made with another seed")]
    OtherSeed,
    /// It ends within a piece.
    #[error("it breaks off after {at} bytes")]
    Torn {
        /// Where that piece begins.
        at: usize,
    },
    /// A piece is not what was written.
    #[error("the piece after {at} bytes is damaged")]
    Damaged {
        /// Where that piece begins.
        at: usize,
    },
}

/// What reading came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RestoredWindows {
    /// Windows that count again; one that was written twice counts twice here.
    pub restored: usize,
    /// Windows in which nothing counts any more.
    pub over: usize,
    /// Windows whose limiter is off or has another shape now.
    pub changed: usize,
    /// Windows for which there was no room.
    pub surplus: usize,
    /// When the last piece was written, in milliseconds since 1970.
    pub as_of_unix_ms: u64,
    /// Where reading ended before the end; what came before is restored.
    pub bad: Option<BadSnapshot>,
}

/// How far writing has come. One goes once through all windows that there are when
/// it begins: from the last to the first, because a sweep puts the last one in the
/// place of whatever it removes. So none slips from before a pass to behind it.
#[derive(Clone, Copy, Debug)]
pub struct Pass {
    only_changed: bool,
    /// The table, and how many of its first windows are left; `None`: it is done.
    at: Option<(Size, usize)>,
}

impl Pass {
    /// Through everything.
    pub const fn whole() -> Self {
        Self { only_changed: false, at: Some((Size::Small, usize::MAX)) }
    }

    /// Through what has changed since it was last written, by either kind.
    pub const fn changes() -> Self {
        Self { only_changed: true, at: Some((Size::Small, usize::MAX)) }
    }

    /// Whether it has been everywhere.
    pub const fn is_done(&self) -> bool {
        self.at.is_none()
    }
}

/// The seed that the keys in a file were made with; a secret.
///
/// # Errors
///
/// If the file's head cannot be read.
pub fn snapshot_seed(bytes: &[u8]) -> Result<[u64; 2], BadSnapshot> {
    Ok(FileHead::read(&mut Reader { bytes, at: 0 })?.seed)
}

impl Windows {
    /// The head of a file. `boot` tells this boot from others; at most 255 bytes of
    /// it count.
    pub(in crate::engine) fn file_head(&mut self, seed: [u64; 2], boot: &str) -> Vec<u8> {
        self.is_recorded = true;
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        write_piece(&mut bytes, |piece| {
            for word in seed {
                piece.extend_from_slice(&word.to_le_bytes());
            }
            write_text(piece, boot);
            for (limiter, shape) in &self.limits.shapes {
                piece.push(limiter.index());
                write_text(piece, limiter.name());
                let (tag, window_ms, max) = shape.parts();
                piece.push(tag);
                piece.extend_from_slice(&window_ms.to_le_bytes());
                piece.extend_from_slice(&max.to_le_bytes());
            }
        });
        bytes
    }

    /// Appends a piece with the next windows of a pass; looks at up to `most`.
    pub(in crate::engine) fn write(
        &mut self,
        pass: &mut Pass,
        most: usize,
        now: Moment,
        into: &mut Vec<u8>,
    ) {
        let Some((size, left)) = pass.at else { return };
        let (limits, begin) = (&self.limits, into.len());
        let len = match size {
            Size::Small => self.small.len(),
            Size::Large => self.large.len(),
        };
        let end = left.min(len);
        let from = end.saturating_sub(most);
        let mut written = 0;
        write_piece(into, |piece| {
            piece.extend_from_slice(&now.boot_ms.to_le_bytes());
            piece.extend_from_slice(&now.unix_ms.to_le_bytes());
            written = match size {
                Size::Small => write_cells(&mut self.small, limits, *pass, from..end, piece),
                Size::Large => write_cells(&mut self.large, limits, *pass, from..end, piece),
            };
        });
        if written == 0 {
            into.truncate(begin);
        }
        pass.at = match size {
            _ if from > 0 => Some((size, from)),
            Size::Small => Some((Size::Large, usize::MAX)),
            Size::Large => None,
        };
    }

    /// Takes over what was written down.
    ///
    /// # Errors
    ///
    /// If nothing of it can be read.
    pub(in crate::engine) fn restore(
        &mut self,
        bytes: &[u8],
        (seed, boot): ([u64; 2], &str),
        now: Moment,
    ) -> Result<RestoredWindows, BadSnapshot> {
        let mut reader = Reader { bytes, at: 0 };
        let head = FileHead::read(&mut reader)?;
        if head.seed != seed {
            return Err(BadSnapshot::OtherSeed);
        }
        let known = head.plans(&self.limits);
        let mut result = RestoredWindows::default();
        while let Some(at) = reader.next_piece() {
            let piece = reader.piece().and_then(|piece| {
                let damaged = BadSnapshot::Damaged { at };
                self.restore_piece(piece, (&known, head.boot == boot), now, &mut result)
                    .ok_or(damaged)
            });
            if let Err(bad) = piece {
                result.bad = Some(bad);
                break;
            }
        }
        Ok(result)
    }

    /// `None` if the piece does not say what a piece says.
    fn restore_piece(
        &mut self,
        piece: &[u8],
        (known, is_same_boot): (&[Option<Known>; 256], bool),
        now: Moment,
        result: &mut RestoredWindows,
    ) -> Option<()> {
        let mut reader = Reader { bytes: piece, at: 0 };
        let then = Moment { boot_ms: reader.u64()?, unix_ms: reader.u64()? };
        result.as_of_unix_ms = result.as_of_unix_ms.max(then.unix_ms);
        let by = if is_same_boot { 0 } else { shift(then, now) };
        while !reader.is_at_end() {
            let (digest, number) = (reader.u64()?, reader.u8()?);
            let (time, count) = (reader.u64()?, reader.u8()?);
            let known = known[usize::from(number)].as_ref()?;
            let saved = reader.take(known.written.measure.saved(count))?;
            let Some((limiter, Plan { measure, size })) = known.now else {
                result.changed += 1;
                continue;
            };
            let key = Key::new(digest, limiter.index());
            let time = measure.shift(time, by, inner(now.boot_ms));
            if measure.is_over(Head { time, count, first: 0, is_changed: true }, inner(now.boot_ms))
            {
                self.forget(key);
                result.over += 1;
            } else if self.len() >= self.bound && !self.knows(key) {
                result.surplus += 1;
            } else {
                result.restored += 1;
                match size {
                    Size::Small => self.small.put(key).load(measure, time, count, saved),
                    Size::Large => self.large.put(key).load(measure, time, count, saved),
                }
            }
        }
        Some(())
    }
}

/// By how much this boot's clock is ahead of the one that showed `then`. A wall
/// clock that was set back says that no time has passed.
fn shift(then: Moment, now: Moment) -> i64 {
    let passed = now.unix_ms.saturating_sub(then.unix_ms);
    let as_then = then.boot_ms.saturating_add(passed);
    i64::try_from(i128::from(now.boot_ms) - i128::from(as_then)).unwrap_or(i64::MIN)
}

/// Cells by their numbers; how many were written.
fn write_cells<const BYTES: usize>(
    table: &mut Table<BYTES>,
    limits: &Limits,
    pass: Pass,
    numbers: Range<usize>,
    piece: &mut Vec<u8>,
) -> usize {
    let mut written = 0;
    for cell in table.cells_from(numbers.start).take(numbers.len()) {
        let is_changed = std::mem::take(&mut cell.head.is_changed);
        let plan = limits.plans[usize::from(cell.key.limiter())];
        if let Some(plan) = plan.filter(|_| is_changed || !pass.only_changed) {
            write_cell(cell, plan, piece);
            written += 1;
        }
    }
    written
}

fn write_cell<const BYTES: usize>(cell: &Cell<BYTES>, plan: Plan, piece: &mut Vec<u8>) {
    piece.extend_from_slice(&cell.key.digest().to_le_bytes());
    piece.push(cell.key.limiter());
    piece.extend_from_slice(&cell.head.time.to_le_bytes());
    piece.push(cell.head.count);
    cell.save(plan.measure, piece);
}

/// Length, checksum, and what `fill` writes.
pub(super) fn write_piece(into: &mut Vec<u8>, fill: impl FnOnce(&mut Vec<u8>)) {
    let begin = into.len();
    into.extend_from_slice(&[0; 8]);
    fill(into);
    let (front, piece) = into[begin..].split_at_mut(8);
    let length = u32::try_from(piece.len()).expect("a piece is of a few thousand windows");
    front[..4].copy_from_slice(&length.to_le_bytes());
    front[4..].copy_from_slice(&crc32fast::hash(piece).to_le_bytes());
}

pub(super) fn write_text(piece: &mut Vec<u8>, text: &str) {
    let text = &text[..text.floor_char_boundary(usize::from(u8::MAX))];
    piece.push(u8::try_from(text.len()).expect("it was cut"));
    piece.extend_from_slice(text.as_bytes());
}

/// What a file says about itself.
struct FileHead<'a> {
    seed: [u64; 2],
    boot: &'a str,
    /// Number, name and shape of each limiter.
    limiters: Vec<(u8, &'a str, Shape)>,
}

/// A limiter of a file.
struct Known {
    /// How its windows were kept.
    written: Plan,
    /// Which limiter that is here, if it still means the same.
    now: Option<(Limiter, Plan)>,
}

impl<'a> FileHead<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Self, BadSnapshot> {
        let is_ours = reader.take(8) == Some(&MAGIC) && reader.u32() == Some(VERSION);
        if !is_ours {
            return Err(BadSnapshot::Foreign);
        }
        let damaged = BadSnapshot::Damaged { at: reader.at };
        let mut piece = Reader { bytes: reader.piece()?, at: 0 };
        Self::parse(&mut piece).ok_or(damaged)
    }

    fn parse(piece: &mut Reader<'a>) -> Option<Self> {
        let (seed, boot) = ([piece.u64()?, piece.u64()?], piece.text()?);
        let mut limiters = Vec::new();
        while !piece.is_at_end() {
            let (index, name) = (piece.u8()?, piece.text()?);
            let shape = Shape::from_parts(piece.u8()?, piece.u64()?, piece.u64()?)?;
            limiters.push((index, name, shape));
        }
        Some(Self { seed, boot, limiters })
    }

    /// By the number that a limiter had then.
    fn plans(&self, limits: &Limits) -> [Option<Known>; 256] {
        let mut known = [const { None }; 256];
        for (index, name, shape) in &self.limiters {
            let written = shape.plan();
            let now = Limiter::from_name(name).and_then(|limiter| {
                let plan = limits.plans[usize::from(limiter.index())]?;
                plan.measure.reads(written.measure).then_some((limiter, plan))
            });
            known[usize::from(*index)] = Some(Known { written, now });
        }
        known
    }
}

/// Reads from the front.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    const fn is_at_end(&self) -> bool {
        self.at == self.bytes.len()
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let taken = self.bytes[self.at..].get(..length)?;
        self.at += length;
        Some(taken)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(*self.take(4)?.first_chunk()?))
    }

    fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(*self.take(8)?.first_chunk()?))
    }

    fn text(&mut self) -> Option<&'a str> {
        let length = usize::from(self.u8()?);
        str::from_utf8(self.take(length)?).ok()
    }

    /// Where the next piece begins, if there is one.
    fn next_piece(&self) -> Option<usize> {
        (!self.is_at_end()).then_some(self.at)
    }

    /// The next piece, if it is whole.
    fn piece(&mut self) -> Result<&'a [u8], BadSnapshot> {
        let at = self.at;
        let torn = BadSnapshot::Torn { at };
        let length = self.u32().ok_or(torn)?;
        let checksum = self.u32().ok_or(torn)?;
        let piece = self.take(usize::try_from(length).map_err(|_| torn)?).ok_or(torn)?;
        let is_sound = crc32fast::hash(piece) == checksum;
        if is_sound { Ok(piece) } else { Err(BadSnapshot::Damaged { at }) }
    }
}
