//! The program that the kernel runs for each frame that comes in on an adapter (`linux/bpf.h`, RFC 9669), written down
//! as instructions.
//!
//! ```text
//! a frame for a station that is not the adapter itself: to the socket of the queue that it came in by
//! a frame for the adapter itself, or for a group:      to the host, as if there were no program
//! a frame of a queue that has no socket:               to the host
//! ```
//!
//! What goes to the host, packet sockets see on the way.

use std::os::fd::RawFd;

use crate::wire::ethernet::MacAddr;

/// One instruction, as the kernel takes it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(C)]
pub(super) struct Instruction {
    code: u8,
    /// The destination in the lower half, the source in the upper.
    registers: u8,
    offset: i16,
    immediate: i32,
}

/// A register of the machine.
#[derive(Clone, Copy)]
#[repr(u8)]
enum Register {
    /// What a call or the program returns.
    R0,
    /// The first argument; at the beginning that of the program, a `struct xdp_md`.
    R1,
    R2,
    R3,
    R4,
    R5,
}

use Register::{R0, R1, R2, R3, R4, R5};

/// Fields of `struct xdp_md`.
const DATA: i16 = 0;
const DATA_END: i16 = 4;
const RX_QUEUE_INDEX: i16 = 16;

/// `XDP_PASS` of `enum xdp_action`.
const PASS: i32 = 2;
/// `BPF_FUNC_redirect_map`: map, key and what to do where the map has none.
const REDIRECT_MAP: i32 = 51;
/// `BPF_PSEUDO_MAP_FD`: the constant is a map, named by its descriptor.
const MAP_DESCRIPTOR: u8 = 1;

const fn instruction(
    code: u8,
    (to, from): (Register, u8),
    offset: i16,
    immediate: i32,
) -> Instruction {
    Instruction {
        code,
        registers: to as u8 | from << 4,
        offset,
        immediate,
    }
}

/// `to = *(u32 *)(from + offset)`
const fn load32(to: Register, from: Register, offset: i16) -> Instruction {
    instruction(0x61, (to, from as u8), offset, 0)
}

/// `to = *(u16 *)(from + offset)`
const fn load16(to: Register, from: Register, offset: i16) -> Instruction {
    instruction(0x69, (to, from as u8), offset, 0)
}

/// `to = from`
const fn copy(to: Register, from: Register) -> Instruction {
    instruction(0xbf, (to, from as u8), 0, 0)
}

/// `to = immediate`
const fn set(to: Register, immediate: i32) -> Instruction {
    instruction(0xb7, (to, 0), 0, immediate)
}

/// `to += immediate`
const fn add(to: Register, immediate: i32) -> Instruction {
    instruction(0x07, (to, 0), 0, immediate)
}

/// Skips `skip` instructions if `a > b`.
const fn if_greater(a: Register, b: Register, skip: i16) -> Instruction {
    instruction(0x2d, (a, b as u8), skip, 0)
}

/// Skips `skip` instructions if `a & bits` is not zero.
const fn if_any(a: Register, bits: i32, skip: i16) -> Instruction {
    instruction(0x45, (a, 0), skip, bits)
}

/// Skips `skip` instructions if the lower 32 bits of `a` are not `value`.
const fn if_not_equal32(a: Register, value: i32, skip: i16) -> Instruction {
    instruction(0x56, (a, 0), skip, value)
}

/// `to = map`, which takes two instructions.
const fn map_address(to: Register, map: RawFd) -> [Instruction; 2] {
    [
        instruction(0x18, (to, MAP_DESCRIPTOR), 0, map),
        instruction(0, (R0, 0), 0, 0),
    ]
}

/// Calls a function of the kernel.
const fn call(function: i32) -> Instruction {
    instruction(0x85, (R0, 0), 0, function)
}

const EXIT: Instruction = instruction(0x95, (R0, 0), 0, 0);

/// Returns the program for an adapter with this address, and a map of sockets by queue.
pub(super) const fn redirect(adapter: MacAddr, sockets: RawFd) -> [Instruction; 18] {
    let [a, b, c, d, e, f] = adapter.0;
    let [map, map_high] = map_address(R1, sockets);
    [
        load32(R2, R1, DATA),
        load32(R3, R1, DATA_END),
        // No frame is shorter than its Ethernet header.
        copy(R4, R2),
        add(R4, 14),
        if_greater(R4, R3, 11),
        load32(R5, R2, 0),
        if_any(R5, group_bit(), 9),
        if_not_equal32(R5, i32::from_ne_bytes([a, b, c, d]), 2),
        load16(R4, R2, 4),
        if_equal(R4, u16::from_ne_bytes([e, f]) as i32, 6),
        load32(R2, R1, RX_QUEUE_INDEX),
        map,
        map_high,
        set(R3, PASS),
        call(REDIRECT_MAP),
        EXIT,
        set(R0, PASS),
        EXIT,
    ]
}

/// Skips `skip` instructions if `a` is `value`.
const fn if_equal(a: Register, value: i32, skip: i16) -> Instruction {
    instruction(0x15, (a, 0), skip, value)
}

/// The bit of a destination's first four bytes, read at once, that tells a group.
const fn group_bit() -> i32 {
    i32::from_ne_bytes([1, 0, 0, 0])
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: MacAddr = MacAddr([2, 0, 0, 0xf0, 5, 0x86]);

    /// What becomes of a frame.
    #[derive(Debug, Eq, PartialEq)]
    enum Fate {
        Host,
        Socket { queue: u64, map: i32 },
    }

    /// Runs the program by hand. Addresses are offsets into the frame.
    fn run(frame: &[u8], queue: u32) -> Fate {
        let program = redirect(OWN, 77);
        let (mut registers, mut at, mut map) = ([0_u64; 6], 0, None);
        loop {
            let Instruction {
                code,
                registers: names,
                offset,
                immediate,
            } = program[at];
            let (to, from) = (usize::from(names & 15), usize::from(names >> 4));
            let value = i64::from(immediate).cast_unsigned();
            let skip = usize::try_from(offset).unwrap();
            at += 1;
            match code {
                0x61 if from == 1 => {
                    registers[to] = match offset {
                        DATA => 0,
                        DATA_END => frame.len() as u64,
                        RX_QUEUE_INDEX => u64::from(queue),
                        other => panic!("field {other}"),
                    };
                }
                0x61 => {
                    let four = frame[skip..skip + 4].try_into().unwrap();
                    registers[to] = u64::from(u32::from_ne_bytes(four));
                }
                0x69 => {
                    let two = frame[skip..skip + 2].try_into().unwrap();
                    registers[to] = u64::from(u16::from_ne_bytes(two));
                }
                0xbf => registers[to] = registers[from],
                0xb7 => registers[to] = value,
                0x07 => registers[to] += value,
                0x2d if registers[to] > registers[from] => at += skip,
                0x45 if registers[to] & value != 0 => at += skip,
                0x15 if registers[to] == value => at += skip,
                0x56 if registers[to] & 0xffff_ffff != value & 0xffff_ffff => at += skip,
                0x2d | 0x45 | 0x15 | 0x56 => {}
                0x18 => {
                    assert_eq!((to, from), (1, 1));
                    map = Some(immediate);
                    at += 1;
                }
                0x85 => {
                    assert_eq!((immediate, registers[3]), (REDIRECT_MAP, PASS as u64));
                    let (queue, map) = (registers[2], map.unwrap());
                    return Fate::Socket { queue, map };
                }
                0x95 => {
                    assert_eq!(registers[0], PASS as u64);
                    return Fate::Host;
                }
                other => panic!("instruction {other:#x}"),
            }
        }
    }

    fn to(destination: [u8; 6]) -> Vec<u8> {
        let mut frame = destination.to_vec();
        frame.resize(60, 0xaa);
        frame
    }

    #[test]
    fn what_is_for_the_adapter_or_for_a_group_is_the_hosts() {
        assert_eq!(run(&to(OWN.0), 0), Fate::Host);
        assert_eq!(run(&to([0xff; 6]), 0), Fate::Host);
        assert_eq!(run(&to([0x33, 0x33, 0, 0, 0, 1]), 3), Fate::Host);
        assert_eq!(run(&to(OWN.0)[..13], 0), Fate::Host, "a runt");
        assert_eq!(run(&to(OWN.0)[..14], 0), Fate::Host);
    }

    #[test]
    fn what_is_for_anybody_else_goes_to_the_socket_of_its_queue() {
        for byte in 0..6 {
            for bit in 0..8 {
                let mut other = OWN.0;
                other[byte] ^= 1 << bit;
                let fate = run(&to(other)[..14], 5);
                if (byte, bit) == (0, 0) {
                    assert_eq!(fate, Fate::Host, "it is a group");
                } else {
                    assert_eq!(fate, Fate::Socket { queue: 5, map: 77 }, "{other:?}");
                }
            }
        }
    }
}
