//! A guest's memory regions as a VMM gives and takes them, checked before the framework maps them.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use super::message::Message;

/// How much memory, and in how many regions, a connection may have mapped: more than any machine has, and little enough
/// that no VMM uses up the address space of all.
const MAX_MEMORY: u64 = 4 << 40;
const MAX_REGIONS: usize = 256;
const REGION_LEN: usize = 32;

/// The regions that are mapped for a connection, by guest address, with their sizes.
#[derive(Debug, Default)]
pub(super) struct Regions(BTreeMap<u64, u64>);

impl Regions {
    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes the regions of a `SET_MEM_TABLE`: checks them against their files, and puts them into the order of their
    /// addresses, which the framework insists on.
    ///
    /// # Errors
    ///
    /// What is wrong with them, in words for the log.
    pub(super) fn replace(&mut self, message: &mut Message) -> Result<(), String> {
        let count = message.u32_at(0).unwrap_or(0) as usize;
        if count == 0
            || message.payload.len() != 8 + count * REGION_LEN
            || message.descriptors.len() != count
        {
            return Err("a memory table does not match its length or its files".to_owned());
        }
        let payload = message.payload.split_off(8);
        let mut regions: Vec<(Region, &[u8], OwnedFd)> = payload
            .chunks(REGION_LEN)
            .zip(message.descriptors.drain(..))
            .map(|(bytes, file)| (Region::parse(bytes), bytes, file))
            .collect();
        regions.sort_by_key(|(region, ..)| region.start);
        self.0.clear();
        for (region, bytes, file) in regions {
            message.descriptors.push(region.check(file)?);
            message.payload.extend_from_slice(bytes);
            self.0.insert(region.start, region.size);
        }
        self.check_size()
    }

    /// Takes the region of an `ADD_MEM_REG`.
    ///
    /// # Errors
    ///
    /// What is wrong with it, in words for the log.
    pub(super) fn add(&mut self, message: &mut Message) -> Result<(), String> {
        let bytes = message.payload.get(8..8 + REGION_LEN);
        let (Some(bytes), 1) = (bytes, message.descriptors.len()) else {
            return Err("a memory region came without its file".to_owned());
        };
        let region = Region::parse(bytes);
        let file = message.descriptors.remove(0);
        message.descriptors.push(region.check(file)?);
        self.0.insert(region.start, region.size);
        self.check_size()
    }

    /// Forgets the region of a `REM_MEM_REG`.
    pub(super) fn remove(&mut self, message: &Message) {
        // It follows eight bytes of padding, and begins with its guest address.
        self.0.remove(&message.u64_at(8).unwrap_or_default());
    }

    fn check_size(&self) -> Result<(), String> {
        let total = self
            .0
            .values()
            .try_fold(0u64, |sum, size| sum.checked_add(*size));
        if self.0.len() > MAX_REGIONS || total.is_none_or(|total| total > MAX_MEMORY) {
            let terabytes = MAX_MEMORY >> 40;
            return Err(format!(
                "more than {MAX_REGIONS} memory regions or {terabytes} TiB of memory"
            ));
        }
        Ok(())
    }
}

/// A memory region as a message describes it.
struct Region {
    start: u64,
    size: u64,
    user: u64,
    offset: u64,
}

impl Region {
    fn parse(bytes: &[u8]) -> Self {
        let field = |at: usize| {
            let field = bytes
                .get(at..at + 8)
                .and_then(|field| field.try_into().ok());
            field.map_or(0, u64::from_ne_bytes)
        };
        Self {
            start: field(0),
            size: field(8),
            user: field(16),
            offset: field(24),
        }
    }

    fn check(&self, file: OwnedFd) -> Result<OwnedFd, String> {
        let wraps = self.start.checked_add(self.size).is_none()
            || self.user.checked_add(self.size).is_none();
        if wraps || self.size == 0 {
            return Err("a memory region is empty or wraps around".to_owned());
        }
        check_memory(file, self.offset, self.size)
    }
}

/// Checks that a descriptor is memory (memfd, tmpfs or hugetlbfs) that can be mapped from `offset` on for `len` bytes.
///
/// A page of any other file comes from its file system when the file system likes, and the worker would wait for it.
#[expect(
    unsafe_code,
    reason = "fcntl and fstatfs have no safe wrapper in the standard library"
)]
fn check_memory(descriptor: OwnedFd, offset: u64, len: u64) -> Result<OwnedFd, String> {
    let number = descriptor.as_raw_fd();
    // SAFETY: the descriptor is open; the call takes no argument, and only these kinds of files answer it.
    let seals = unsafe { libc::fcntl(number, libc::F_GET_SEALS) };
    if seals < 0 {
        return Err(
            "a memory region is not shared memory: use memfd, tmpfs or hugetlbfs".to_owned(),
        );
    }
    let file = File::from(descriptor);
    let metadata = file
        .metadata()
        .map_err(|error| format!("the file of a memory region cannot be examined: {error}"))?;
    let end = offset
        .checked_add(len)
        .ok_or("a memory region wraps around")?;
    if metadata.len() < end {
        return Err(format!(
            "a memory region ends at byte {end} of a file of {} bytes",
            metadata.len()
        ));
    }
    // SAFETY: all-zero is valid for a structure of plain numbers.
    let mut system: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: the descriptor is open, and the structure is writable.
    let examined = unsafe { libc::fstatfs(number, &raw mut system) };
    let huge = examined == 0 && system.f_type == libc::HUGETLBFS_MAGIC;
    let page = metadata.blksize();
    if huge && !(offset.is_multiple_of(page) && len.is_multiple_of(page)) {
        return Err(format!(
            "a memory region does not cover whole huge pages of {page} bytes"
        ));
    }
    Ok(file.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::FromRawFd;

    #[expect(unsafe_code, reason = "the standard library has no memfd")]
    fn memfd() -> OwnedFd {
        // SAFETY: the name is a string that ends.
        let number = unsafe { libc::memfd_create(c"guest".as_ptr(), libc::MFD_CLOEXEC) };
        assert!(number >= 0);
        // SAFETY: the kernel has just opened this descriptor for us.
        unsafe { OwnedFd::from_raw_fd(number) }
    }

    #[test]
    fn only_shared_memory_that_is_long_enough_is_taken() {
        let disk = tempfile::tempfile().unwrap();
        disk.set_len(4096).unwrap();
        let memory = File::from(memfd());
        memory.set_len(4096).unwrap();
        let copy = || OwnedFd::from(memory.try_clone().unwrap());
        assert!(check_memory(copy(), 0, 4096).is_ok());
        assert!(check_memory(copy(), 1, 4096).is_err());
        assert!(check_memory(copy(), u64::MAX, 2).is_err());
        assert!(check_memory(disk.into(), 0, 4096).is_err());
        assert!(check_memory(File::open("/dev/null").unwrap().into(), 0, 0).is_err());
    }

    #[test]
    fn regions_are_sorted_with_their_files_and_counted() {
        let region = |start: u64, size: u64| [start, size, start, 0].map(u64::to_ne_bytes).concat();
        let file = |len: u64| {
            let file = File::from(memfd());
            file.set_len(len).unwrap();
            OwnedFd::from(file)
        };
        let len = |file: &OwnedFd| {
            File::from(file.try_clone().unwrap())
                .metadata()
                .unwrap()
                .len()
        };
        let table = [
            2u64.to_ne_bytes().to_vec(),
            region(0x10_0000, 8192),
            region(0, 4096),
        ]
        .concat();
        let mut message = Message::request(5, table);
        message.descriptors = vec![file(8192), file(4096)];
        let mut regions = Regions::default();
        regions.replace(&mut message).unwrap();
        assert_eq!(message.u64_at(8), Some(0));
        assert_eq!(
            message.descriptors.iter().map(len).collect::<Vec<_>>(),
            [4096, 8192]
        );

        for index in 1..=u64::try_from(MAX_REGIONS).unwrap() {
            let start = index << 32;
            let mut message = Message::request(37, [vec![0; 8], region(start, 4096)].concat());
            message.descriptors = vec![file(4096)];
            let added = regions.add(&mut message);
            assert_eq!(added.is_ok(), regions.0.len() <= MAX_REGIONS);
        }
        let mut huge = Message::request(
            5,
            [1u64.to_ne_bytes().to_vec(), region(0, MAX_MEMORY + 4096)].concat(),
        );
        huge.descriptors = vec![file(MAX_MEMORY + 4096)];
        assert!(regions.replace(&mut huge).is_err());
    }
}
