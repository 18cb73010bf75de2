//! Tests of the lease file.

use super::*;
use crate::engine::Journal;
use crate::net::dhcp::State;
use crate::wire::ethernet::MacAddr;

const NOW: Duration = Duration::from_secs(1_800_000_000);

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + NOW
}

fn record(last: u8, ends_in: u64) -> Record {
    Record {
        ip: Ipv4Addr::new(10, 0, 0, last),
        state: State::Bound,
        mac: MacAddr([2, 0, 0, 0, 0, last]),
        client_id: Some(vec![1, 2, last]),
        hostname: Some(format!("host-{last}")),
        ends: now() + Duration::from_secs(ends_in),
    }
}

fn entry(last: u8, ends_in: u64) -> Entry {
    Entry {
        network: "net".to_owned(),
        ticket: 0,
        record: record(last, ends_in),
    }
}

fn text(dir: &Path) -> String {
    std::fs::read_to_string(dir.join("leases")).unwrap()
}

#[test]
fn records_survive_a_restart_and_the_newest_counts() {
    let dir = tempfile::tempdir().unwrap();
    let leases = Leases::open(dir.path(), now()).unwrap();
    let (mut sender, writer) = leases.start(Durable::new().unwrap()).unwrap();
    for (ticket, (last, ends_in)) in [(1, 100), (2, 100), (1, 900)].into_iter().enumerate() {
        assert!(sender.append("net", ticket as u64, record(last, ends_in)));
    }
    drop(sender);
    writer.finish();
    assert_eq!(text(dir.path()).lines().count(), 4);
    let leases = Leases::open(dir.path(), now()).unwrap();
    assert_eq!(
        leases.by_network(),
        BTreeMap::from([("net".to_owned(), vec![record(1, 900), record(2, 100)])])
    );
    assert_eq!(
        text(dir.path()).lines().count(),
        3,
        "what does not count any more is gone"
    );
}

#[test]
fn broken_lines_and_a_cut_off_end_are_skipped() {
    let dir = tempfile::tempdir().unwrap();
    let good = line::render("net", &record(1, 100));
    let torn = line::render("net", &record(2, 100));
    let mut bytes = format!("{}\n\0\0\0\n{good}nonsense\n", line::HEADER).into_bytes();
    bytes.extend_from_slice(b"\xff\xfe\n");
    bytes.extend_from_slice(&torn.as_bytes()[..torn.len() - 3]);
    std::fs::write(dir.path().join("leases"), bytes).unwrap();
    let leases = Leases::open(dir.path(), now()).unwrap();
    assert_eq!(leases.by_network()["net"], [record(1, 100)]);
}

#[test]
fn a_file_of_another_version_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("leases"), "vmlan leases 2\n").unwrap();
    assert!(matches!(
        Leases::open(dir.path(), now()),
        Err(JournalError::Version { .. })
    ));
    assert_eq!(text(dir.path()), "vmlan leases 2\n");
}

#[test]
fn a_file_that_cannot_be_written_anew_at_the_start_is_used_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = (
        line::render("net", &record(1, 100)),
        line::render("net", &record(2, 100)),
    );
    let old = format!("{}\n{first}", line::HEADER);
    let torn = format!("{old}{}", &second[..second.len() - 3]);
    std::fs::write(dir.path().join("leases"), torn).unwrap();
    std::fs::create_dir(dir.path().join("leases.new")).unwrap();
    let mut leases = Leases::open(dir.path(), now()).unwrap();
    assert_eq!(leases.by_network()["net"], [record(1, 100)]);
    assert_eq!(text(dir.path()), old, "what was cut off is cut away");
    leases.append(&[entry(2, 100)]).unwrap();
    assert_eq!(text(dir.path()), format!("{old}{second}"));
}

#[test]
fn a_disk_that_takes_no_lease_at_all_is_an_error_with_a_remedy() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("leases.new")).unwrap();
    let error = Leases::open(dir.path(), now()).unwrap_err().to_string();
    assert!(
        error.contains("; free space, or set daemon.state_dir"),
        "{error}"
    );
}

#[test]
fn a_file_that_is_none_is_set_aside() {
    for damaged in ["\0\0\0\n", "vmlan lea", "garbage\nvmlan leases 1\n"] {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("leases"), damaged).unwrap();
        let leases = Leases::open(dir.path(), now()).unwrap();
        assert_eq!(leases.by_network(), BTreeMap::new());
        assert_eq!(text(dir.path()), format!("{}\n", line::HEADER));
        let kept = std::fs::read_to_string(dir.path().join("leases.bad")).unwrap();
        assert_eq!(kept, damaged);
    }
}

#[test]
fn a_file_with_lines_that_make_no_sense_is_kept_beside_the_new_one() {
    let dir = tempfile::tempdir().unwrap();
    let good = line::render("net", &record(1, 100));
    let (leases, bad) = (dir.path().join("leases"), dir.path().join("leases.bad"));
    std::fs::write(&leases, format!("{}\n{good}cut off", line::HEADER)).unwrap();
    Leases::open(dir.path(), now()).unwrap();
    assert!(!bad.exists(), "a line that is only cut off is no loss");
    let odd = format!("{}\nnonsense\n{good}", line::HEADER);
    std::fs::write(&leases, &odd).unwrap();
    Leases::open(dir.path(), now()).unwrap();
    assert_eq!(std::fs::read_to_string(bad).unwrap(), odd);
    assert_eq!(text(dir.path()), format!("{}\n{good}", line::HEADER));
}

#[test]
fn what_ended_long_ago_is_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let lines = line::render("net", &record(1, 0)) + &line::render("net", &record(2, 100));
    std::fs::write(
        dir.path().join("leases"),
        format!("{}\n{lines}", line::HEADER),
    )
    .unwrap();
    let leases = Leases::open(dir.path(), now() + REMEMBERED + Duration::from_secs(50)).unwrap();
    assert_eq!(leases.by_network()["net"], [record(2, 100)]);
}

#[test]
fn a_batch_that_cannot_be_written_leaves_the_file_as_it_was_and_the_next_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let mut leases = Leases::open(dir.path(), now()).unwrap();
    leases.append(&[entry(1, 100)]).unwrap();
    let before = text(dir.path());
    leases.file = Some(File::open(dir.path().join("leases")).unwrap());
    leases.append(&[entry(2, 100)]).unwrap_err();
    assert_eq!(text(dir.path()), before);
    leases.append(&[entry(3, 100)]).unwrap();
    assert_eq!(
        Leases::open(dir.path(), now()).unwrap().by_network()["net"],
        [record(1, 100), record(3, 100)]
    );
}

#[test]
fn a_file_that_has_grown_is_written_anew() {
    let dir = tempfile::tempdir().unwrap();
    let mut leases = Leases::open(dir.path(), now()).unwrap();
    leases.append(&[entry(1, 100)]).unwrap();
    leases.lines = SLACK + 4;
    leases.tidy();
    assert_eq!(leases.lines, SLACK + 4);
    leases.append(&[entry(1, 200)]).unwrap();
    leases.tidy();
    assert_eq!(
        text(dir.path()),
        format!("{}\n{}", line::HEADER, line::render("net", &record(1, 200)))
    );
    leases.append(&[entry(2, 200)]).unwrap();
    assert_eq!(
        text(dir.path()).lines().count(),
        3,
        "writing goes on at the end of the new file"
    );
}

#[test]
fn a_full_queue_refuses() {
    let (sender, _receiver) = crossbeam_channel::bounded(1);
    let mut sender = Sender(sender);
    assert!(sender.append("net", 0, record(1, 100)));
    assert!(!sender.append("net", 1, record(1, 100)));
}
