//! The few calls of bpf(2) that aya does not have: maps in batches, pins opened
//! for reading only, links detached at once. Nothing here knows what is in a map.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use aya::Pod;
use aya_obj::generated::{bpf_attr, bpf_cmd};
use nix::libc;

/// `BPF_MAP_LOOKUP_BATCH`; aya-obj's list leaves it out.
const LOOKUP_BATCH: u32 = 24;
/// Open for reading only (`linux/bpf.h`).
const BPF_F_RDONLY: u32 = 1 << 3;
/// Refuse keys that are there already (`linux/bpf.h`).
pub(super) const BPF_NOEXIST: u64 = 1;
/// Refuse keys that are not there yet (`linux/bpf.h`).
pub(super) const BPF_EXIST: u64 = 2;

/// Sets one key's value.
pub(super) fn update<K: Pod, V: Pod>(
    map: BorrowedFd<'_>,
    key: &K,
    value: &V,
    flags: u64,
) -> io::Result<()> {
    bpf(bpf_cmd::BPF_MAP_UPDATE_ELEM as u32, &mut element(map, key, address(value), flags))
        .map(drop)
}

/// One key's value; `None` if it is not there.
pub(super) fn lookup<K: Pod, V: Pod + Default>(
    map: BorrowedFd<'_>,
    key: &K,
) -> io::Result<Option<V>> {
    let mut value = V::default();
    let attr = &mut element(map, key, address(&raw mut value), 0);
    found(bpf(bpf_cmd::BPF_MAP_LOOKUP_ELEM as u32, attr)).map(|found| found.then_some(value))
}

/// Deletes one key; `false` if it is not there.
pub(super) fn delete<K: Pod>(map: BorrowedFd<'_>, key: &K) -> io::Result<bool> {
    found(bpf(bpf_cmd::BPF_MAP_DELETE_ELEM as u32, &mut element(map, key, 0, 0)))
}

fn found(result: io::Result<i64>) -> io::Result<bool> {
    match result {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

fn element<K>(map: BorrowedFd<'_>, key: &K, value: u64, flags: u64) -> bpf_attr {
    let mut attr = empty();
    attr.__bindgen_anon_2 = aya_obj::generated::bpf_attr__bindgen_ty_2 {
        map_fd: map.as_raw_fd().cast_unsigned(),
        key: address(key),
        __bindgen_anon_1: aya_obj::generated::bpf_attr__bindgen_ty_2__bindgen_ty_1 { value },
        flags,
    };
    attr
}

/// How far a batch got, and what stopped it.
pub(super) struct Batch {
    pub(super) done: usize,
    pub(super) result: io::Result<()>,
}

/// Sets keys, whether they are there or not, in order, until one is refused. A
/// batch takes none of the flags that a single key does (kernel:
/// `generic_map_update_batch`).
pub(super) fn update_batch<K: Pod, V: Pod>(map: BorrowedFd<'_>, keys: &[K], values: &[V]) -> Batch {
    debug_assert_eq!(keys.len(), values.len());
    let attr = batch(map, keys.as_ptr().addr(), values.as_ptr().addr(), keys.len());
    write(bpf_cmd::BPF_MAP_UPDATE_BATCH as u32, attr, keys.len())
}

/// Deletes keys, in order, until one is not there.
pub(super) fn delete_batch<K: Pod>(map: BorrowedFd<'_>, keys: &[K]) -> Batch {
    let attr = batch(map, keys.as_ptr().addr(), 0, keys.len());
    write(bpf_cmd::BPF_MAP_DELETE_BATCH as u32, attr, keys.len())
}

/// A batch that is refused as a whole leaves the count as it was asked for: then
/// nothing was done. One that stops at a key has done fewer.
fn write(command: u32, attr: bpf_attr, count: usize) -> Batch {
    let Batch { done, result } = run(command, attr, count);
    let is_refused = result.is_err() && done == count;
    Batch { done: if is_refused { 0 } else { done }, result }
}

/// Reads a hash map or a trie piece by piece. What is changed meanwhile may or
/// may not be seen; what is not changed is seen once. A trie is seen from the
/// start again when the key is gone that the last page ended with.
pub(super) struct Pages<K, V> {
    keys: Vec<K>,
    values: Vec<V>,
    /// The kernel's place in the map: the last key of a trie; of a hash map the
    /// number of a bucket, which needs no more bytes.
    place: Option<K>,
    is_over: bool,
}

impl<K: Pod + Default, V: Pod + Default> Pages<K, V> {
    const HOLDS_A_PLACE: () = assert!(size_of::<K>() >= size_of::<u32>());

    /// From the start, in pages of `size` entries.
    pub(super) fn new(size: usize) -> Self {
        let (keys, values) = (vec![K::default(); size], vec![V::default(); size]);
        Self { keys, values, place: None, is_over: false }
    }

    /// The next page; `None` after the last.
    pub(super) fn next(&mut self, map: BorrowedFd<'_>) -> io::Result<Option<(&[K], &[V])>> {
        while !self.is_over {
            let found = self.read(map)?;
            if found > 0 {
                return Ok(Some((&self.keys[..found], &self.values[..found])));
            }
        }
        Ok(None)
    }

    fn read(&mut self, map: BorrowedFd<'_>) -> io::Result<usize> {
        let () = Self::HOLDS_A_PLACE;
        let mut next = K::default();
        let (keys, values) = (self.keys.as_mut_ptr().addr(), self.values.as_mut_ptr().addr());
        let mut attr = batch(map, keys, values, self.keys.len());
        attr.batch.in_batch = self.place.as_ref().map_or(0, |place| address(&raw const *place));
        attr.batch.out_batch = address(&raw mut next);
        let Batch { done, result } = run(LOOKUP_BATCH, attr, self.keys.len());
        match result {
            Ok(()) => self.place = Some(next),
            // The last page, which may hold entries nevertheless.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => self.is_over = true,
            // A bucket with more entries than a page.
            Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => {
                self.grow();
                return Ok(0);
            }
            Err(error) => return Err(error),
        }
        Ok(done)
    }

    fn grow(&mut self) {
        let size = 2 * self.keys.len().max(1);
        self.keys.resize(size, K::default());
        self.values.resize(size, V::default());
    }
}

fn address<T>(pointer: *const T) -> u64 {
    pointer.addr() as u64
}

fn batch(map: BorrowedFd<'_>, keys: usize, values: usize, count: usize) -> bpf_attr {
    let mut attr = empty();
    attr.batch = aya_obj::generated::bpf_attr__bindgen_ty_3 {
        in_batch: 0,
        out_batch: 0,
        keys: keys as u64,
        values: values as u64,
        count: u32::try_from(count).unwrap_or(u32::MAX),
        map_fd: map.as_raw_fd().cast_unsigned(),
        elem_flags: 0,
        flags: 0,
    };
    attr
}

/// The kernel wants every byte that it does not know to be zero.
#[expect(unsafe_code, reason = "a union of plain integers")]
fn empty() -> bpf_attr {
    // SAFETY: all fields are integers, for which zero is a value.
    unsafe { std::mem::zeroed() }
}

fn run(command: u32, mut attr: bpf_attr, count: usize) -> Batch {
    let result = bpf(command, &mut attr).map(drop);
    // SAFETY: the field that was set before the call.
    #[expect(unsafe_code, reason = "a union of plain integers")]
    let done = unsafe { attr.batch.count } as usize;
    // EFAULT comes before the kernel has written how many it did.
    let faulted = result.as_ref().is_err_and(|error| error.raw_os_error() == Some(libc::EFAULT));
    Batch { done: if faulted { 0 } else { done.min(count) }, result }
}

/// Opens a pinned object that this user may read, but not write.
pub(super) fn open_read_only(path: &Path) -> io::Result<OwnedFd> {
    open(path, BPF_F_RDONLY)
}

/// Has a pinned link let go of what it holds, before this returns. The pin stays,
/// and keeps a link that does nothing.
pub(super) fn detach_link(path: &Path) -> io::Result<()> {
    let link = open(path, 0)?;
    let mut attr = empty();
    attr.link_detach.link_fd = link.as_raw_fd().cast_unsigned();
    bpf(bpf_cmd::BPF_LINK_DETACH as u32, &mut attr).map(drop)
}

fn open(path: &Path, flags: u32) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = empty();
    // Field by field: a whole struct may come with anything in its padding, which
    // the kernel refuses here, behind the last field that it knows.
    attr.__bindgen_anon_4.pathname = path.as_ptr().addr() as u64;
    attr.__bindgen_anon_4.file_flags = flags;
    let fd = bpf(bpf_cmd::BPF_OBJ_GET as u32, &mut attr)?;
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel made this descriptor for us just now.
    #[expect(unsafe_code, reason = "descriptors come as numbers")]
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[expect(unsafe_code, reason = "libc has no safe bpf(2)")]
fn bpf(command: u32, attr: &mut bpf_attr) -> io::Result<i64> {
    // SAFETY: the attributes are of the size that is said, and the buffers in
    // them are alive in the callers for as long as the call takes.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attr, size_of::<bpf_attr>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Words that a device's answer may take: features have names of 32 bytes, and there are
/// fewer than a hundred.
const ETHTOOL_WORDS: usize = 16_384;

/// Asks a network device (ethtool(8), `linux/ethtool.h`): a question begins with its
/// command. Needs no privilege for what is only read.
#[expect(unsafe_code, reason = "libc has no safe ioctl(2)")]
pub(super) fn ethtool(interface: &str, question: &[u32]) -> io::Result<Vec<u32>> {
    let mut words = vec![0_u32; ETHTOOL_WORDS];
    words[..question.len()].copy_from_slice(question);
    // SAFETY: all fields are integers and pointers, for which zero is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last byte stays zero.
    let room = request.ifr_name.len() - 1;
    if interface.len() > room {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    request.ifr_ifru.ifru_data = words.as_mut_ptr().cast();
    let socket = nix::sys::socket::socket(
        nix::sys::socket::AddressFamily::Inet,
        nix::sys::socket::SockType::Datagram,
        nix::sys::socket::SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    // SAFETY: the request and the words, of which there are more than any answer to our
    // questions has, are alive for as long as the call takes.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(words) }
}

/// `linux/sockios.h`.
const SIOCETHTOOL: libc::Ioctl = 0x8946;

/// Whether the kernel's clock is kept in step with others' (adjtimex(2)).
#[expect(unsafe_code, reason = "libc has no safe adjtimex(2)")]
pub(super) fn is_clock_synchronized() -> io::Result<bool> {
    // SAFETY: all fields are integers, for which zero is a value; a mode of zero changes
    // nothing.
    let mut time: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: the struct is alive for as long as the call takes.
    let state = unsafe { libc::adjtimex(&raw mut time) };
    match state {
        -1 => Err(io::Error::last_os_error()),
        libc::TIME_ERROR => Ok(false),
        _ => Ok(true),
    }
}
