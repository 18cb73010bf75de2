//! A guest's memory as the rings see it: regions, looked up without a lock and without a reference count.
//!
//! The mappings are made by `vm-memory`; this keeps them alive and remembers where they are. A frontend gives and
//! takes regions at any time; each change makes a new [`Memory`], and the old one lives until no ring uses it.

use std::sync::Arc;

use vm_memory::{GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};

#[derive(Debug)]
struct Region {
    start: u64,
    len: u64,
    host: usize,
}

/// The regions of one guest at one time.
#[derive(Debug)]
pub(super) struct Memory {
    regions: Vec<Region>,
    _mappings: Arc<GuestMemoryMmap<()>>,
}

/// Where to look first: the region of the last address, which is nearly always the region of the next.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Hint(usize);

impl Memory {
    /// Remembers where the regions of a guest's memory are mapped.
    pub(super) fn new(mappings: Arc<GuestMemoryMmap<()>>) -> Self {
        let regions = mappings
            .iter()
            .map(|region| Region {
                start: vm_memory::Address::raw_value(&region.start_addr()),
                len: region.len(),
                host: region.as_ptr().expose_provenance(),
            })
            .collect();
        Self {
            regions,
            _mappings: mappings,
        }
    }

    /// Finds the memory at a guest address: where it is mapped, and how many of `len` bytes are there in one piece.
    #[inline]
    pub(super) fn find(
        &self,
        address: u64,
        len: usize,
        hint: &mut Hint,
    ) -> Option<(*mut u8, usize)> {
        if let Some(region) = self.regions.get(hint.0)
            && let Some(found) = region.find(address, len)
        {
            return Some(found);
        }
        let (index, found) = self
            .regions
            .iter()
            .enumerate()
            .find_map(|(index, region)| Some((index, region.find(address, len)?)))?;
        hint.0 = index;
        Some(found)
    }

    /// Finds the memory at a guest address if all of it is there in one piece.
    #[inline]
    pub(super) fn find_whole(&self, address: u64, len: usize, hint: &mut Hint) -> Option<*mut u8> {
        self.find(address, len, hint)
            .filter(|(_, found)| *found == len)
            .map(|(host, _)| host)
    }
}

impl Region {
    #[inline]
    fn find(&self, address: u64, len: usize) -> Option<(*mut u8, usize)> {
        let offset = address.wrapping_sub(self.start);
        if offset >= self.len {
            return None;
        }
        // Regions are mapped, so their lengths fit an address.
        let left = usize::try_from(self.len - offset).ok()?;
        let host = self.host.checked_add(usize::try_from(offset).ok()?)?;
        Some((std::ptr::with_exposed_provenance_mut(host), len.min(left)))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use vm_memory::GuestAddress;

    /// Memory of `regions`: start and length each.
    pub(in super::super) fn memory(regions: &[(u64, usize)]) -> Arc<Memory> {
        let ranges: Vec<_> = regions
            .iter()
            .map(|(start, len)| (GuestAddress(*start), *len))
            .collect();
        Arc::new(Memory::new(Arc::new(
            GuestMemoryMmap::from_ranges(&ranges).unwrap(),
        )))
    }

    #[test]
    fn an_address_is_found_in_its_region_and_no_further() {
        let memory = memory(&[(0x1000, 0x1000), (0x10_0000, 0x2000)]);
        let mut hint = Hint::default();
        assert!(memory.find_whole(0x1000, 0x1000, &mut hint).is_some());
        assert!(memory.find_whole(0x1000, 0x1001, &mut hint).is_none());
        assert_eq!(
            memory.find(0x1ff0, 0x100, &mut hint).map(|(_, len)| len),
            Some(0x10)
        );
        assert!(memory.find(0xfff, 1, &mut hint).is_none());
        assert!(memory.find(0x2000, 1, &mut hint).is_none());
        assert!(memory.find_whole(0x10_1fff, 1, &mut hint).is_some());
        assert!(memory.find(u64::MAX, 2, &mut hint).is_none());
    }
}
