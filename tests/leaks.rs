//! Guests that come and go leave nothing behind: no descriptor, no thread, no mapping.
//!
//! Alone in its file, so that the process it counts in does nothing else.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use support::*;
use vmlan::ports::PortState;

fn held() -> (usize, usize, usize) {
    let count = |path: &str| std::fs::read_dir(path).unwrap().count();
    let shared = std::fs::read_to_string("/proc/self/maps")
        .unwrap()
        .lines()
        .filter(|line| line.contains("rw-s"))
        .count();
    (count("/proc/self/fd"), count("/proc/self/task"), shared)
}

#[test]
fn connections_that_come_and_go_leave_nothing_behind() {
    let lan = Lan::new(2);
    let mut b = lan.guest(2, PLAIN);
    let mut cycle = || {
        let mut a = lan.guest(1, PLAIN);
        b.offer_buffers(1, 2048);
        a.send(&frame(1, 2, 60));
        assert_eq!(b.receive(), frame(1, 2, 60));
        drop(a);
        lan.wait_for_state(1, PortState::Waiting);
    };
    cycle();
    // Taken while the first connection may still be on its way out, so this is one too high at most.
    let flat = held();
    for _ in 0..100 {
        cycle();
    }
    eventually("everything is given back", || {
        let now = held();
        (now.0 <= flat.0 && now.1 <= flat.1 && now.2 <= flat.2).then_some(())
    });
}
