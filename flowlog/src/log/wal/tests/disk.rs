//! Disks that fail: nothing half-written stays before good frames, and the log goes on.
//!
//! The failing files are real ones: memory files whose growth is forbidden take a part of a frame and
//! refuse the rest, as a full disk does, and `/dev/null` takes all and cannot be synced.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::path::PathBuf;

use flowlog_reader::segments::FrameError;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};

use super::super::segment::OpenSegment;
use super::super::{DamageCause, Frame, WalError, WalSync, read};
use super::{Bench, RUN, frames, header};

/// Beyond the first frames, and a limit of a page within the next.
const FULL_BYTES: u64 = 4096;

/// A file that cannot become larger than [`FULL_BYTES`], with the header of a segment.
fn full_disk(more: SealFlag) -> (OpenSegment, File) {
    let file = File::from(memfd_create("full-disk", MFdFlags::MFD_ALLOW_SEALING).unwrap());
    let again = file.try_clone().unwrap();
    let path = PathBuf::from(format!("/proc/self/fd/{}", again.as_raw_fd()));
    let mut segment = OpenSegment::new(path, file);
    segment.append(&header().to_bytes().unwrap()).unwrap();
    again.set_len(FULL_BYTES).unwrap();
    fcntl(&again, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_GROW | more)).unwrap();
    (segment, again)
}

#[test]
fn a_frame_that_does_not_fit_leaves_nothing() {
    let mut bench = Bench::new(WalSync::Off);
    let (segment, file) = full_disk(SealFlag::empty());
    bench.wal.current = Some(segment);
    let first = bench.append(1, 1);
    let before = bench.wal.current().unwrap().clone();

    let batch = bench.rows.batch(1000);
    let error = bench.wal.append(&batch, 2, 0).unwrap_err();
    assert!(matches!(&error, WalError::Append { path, .. } if *path == before.path), "{error}");
    assert!(!error.is_taken());
    assert_eq!(file.metadata().unwrap().len(), before.bytes, "cut back to the last good frame");
    assert_eq!(bench.wal.current(), Some(&before));
    assert_eq!(frames(&before.path), [first]);
}

#[test]
fn a_torn_frame_that_cannot_be_cut_off_ends_the_segment() {
    let mut bench = Bench::new(WalSync::Off);
    let (segment, _file) = full_disk(SealFlag::F_SEAL_SHRINK);
    bench.wal.current = Some(segment);
    let first = bench.append(1, 1);
    let broken = bench.wal.current().unwrap().clone();

    let batch = bench.rows.batch(1000);
    assert!(!bench.wal.append(&batch, 2, 0).unwrap_err().is_taken());
    assert_eq!(bench.wal.current(), None);
    assert_eq!(bench.wal.take_sealed(), std::slice::from_ref(&broken));

    let (_, recovered) = read(&broken.path).unwrap();
    let mut recovered: Vec<_> = recovered.collect();
    let damage = recovered.pop().unwrap().unwrap_err();
    assert!(matches!(damage.cause, DamageCause::Frame(FrameError::Torn)), "{damage}");
    assert_eq!((damage.offset, damage.bytes), (broken.bytes, FULL_BYTES - broken.bytes));
    assert_eq!(recovered.into_iter().map(Result::unwrap).collect::<Vec<_>>(), [first]);

    // The same rows go to a new segment.
    bench.wal.append(&batch, 2, 0).unwrap();
    let path = bench.directory().join(format!("{RUN}_00000001.wal"));
    assert_eq!(frames(&path), [Frame { batch: Some(batch), complete_until_us: 2, round: 0 }]);
}

/// A segment that takes frames, and cannot be synced.
fn cannot_sync() -> OpenSegment {
    OpenSegment::new("/dev/null".into(), File::options().write(true).open("/dev/null").unwrap())
}

#[test]
fn a_segment_is_synced_when_it_ends() {
    let end = |sync| {
        let mut bench = Bench::new(sync);
        bench.wal.current = Some(cannot_sync());
        bench.append(3, 1);
        let synced = bench.wal.seal();
        assert_eq!(bench.wal.take_sealed().len(), 1);
        synced
    };
    let error = end(WalSync::default()).unwrap_err();
    assert!(matches!(error, WalError::Sync { rows: 3, .. }), "{error}");
    end(WalSync::Off).unwrap();
}

#[test]
fn a_segment_that_cannot_be_synced_takes_no_more_frames() {
    let mut bench = Bench::new(WalSync::Batch);
    bench.wal.current = Some(cannot_sync());
    let batch = bench.rows.batch(3);
    let error = bench.wal.append(&batch, 1, 0).unwrap_err();
    assert!(matches!(&error, WalError::Sync { rows: 3, .. }), "{error}");
    assert!(error.is_taken(), "appending it again would log its rows twice");
    let sealed = bench.wal.take_sealed();
    assert_eq!((sealed.len(), sealed[0].rows, sealed[0].last_seq), (1, 3, Some(3)));

    let after = bench.append(2, 2);
    assert_eq!(frames(&bench.wal.current().unwrap().path), [after]);
}

#[test]
fn a_segment_that_cannot_be_made_is_made_later() {
    let mut bench = Bench::new(WalSync::Off);
    fs::write(bench.directory(), "in the way").unwrap();
    let batch = bench.rows.batch(1);
    let error = bench.wal.append(&batch, 1, 0).unwrap_err();
    assert!(matches!(&error, WalError::Append { path, .. } if *path == bench.directory()), "{error}");
    assert_eq!(bench.wal.current(), None);
    assert_eq!(bench.wal.take_sealed(), []);

    fs::remove_file(bench.directory()).unwrap();
    bench.wal.append(&batch, 1, 0).unwrap();
    assert_eq!(bench.names(), [format!("{RUN}_00000001.wal")]);

    // Also where somebody removes the directory of a running log.
    bench.wal.seal().unwrap();
    fs::remove_dir_all(bench.directory()).unwrap();
    let after = bench.append(1, 2);
    assert_eq!(frames(&bench.wal.current().unwrap().path), [after]);
}

#[test]
fn errors_say_whether_the_disk_is_full() {
    let append = |kind| WalError::Append { path: "wal".into(), source: io::Error::from(kind) };
    assert!(append(io::ErrorKind::StorageFull).is_disk_full());
    assert!(append(io::ErrorKind::QuotaExceeded).is_disk_full());
    assert!(!append(io::ErrorKind::PermissionDenied).is_disk_full());
    assert_eq!(
        append(io::ErrorKind::StorageFull).to_string(),
        "cannot append to the write-ahead log in `wal`"
    );
}
