//! What the write-ahead log says of runs: until when each is known, and by which rows.

use std::collections::BTreeMap;
use std::io;

use uuid::Uuid;

use crate::directory::DirectoryError;
use crate::segments::{self, Frame, MARK, ROWS, ReadError, SegmentFile};

/// The write-ahead log of each run that has one.
pub(super) type Logs = BTreeMap<Uuid, Vec<Step>>;

/// A frame: with this row, everything is known that ended before this time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Step {
    /// Its last row; `None` where it has none.
    last_seq: Option<i64>,
    complete_until_us: i64,
}

/// Reads the heads of all frames, and says whether segments went meanwhile.
pub(super) fn read(listed: &[SegmentFile]) -> Result<(Logs, bool), DirectoryError> {
    let mut logs = Logs::new();
    let mut has_changed = false;
    for of_run in listed.chunk_by(|one, next| one.run_id == next.run_id) {
        let Some(first) = of_run.first() else { continue };
        let steps = logs.entry(first.run_id).or_default();
        for segment in of_run {
            let failed = |source| DirectoryError { path: segment.path.clone(), source };
            match read_segment(segment, steps) {
                Ok(true) => {}
                // What comes after a frame that is not whole is not known, in whichever segment.
                Ok(false) => break,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    has_changed = true;
                    break;
                }
                Err(error) => return Err(failed(error)),
            }
        }
    }
    Ok((logs, has_changed))
}

/// Says whether all of it is whole.
fn read_segment(segment: &SegmentFile, steps: &mut Vec<Step>) -> io::Result<bool> {
    let mut frames = match segments::open(&segment.path) {
        Ok((_, frames)) => frames,
        Err(ReadError::Io(error)) => return Err(error),
        // It is being made, or damaged: the daemon that recovers it says so.
        Err(ReadError::Header { .. }) => return Ok(false),
    };
    loop {
        match frames.next_frame() {
            None => return Ok(true),
            Some(Ok(Frame { head, .. })) if matches!(head.kind, ROWS | MARK) => {
                let (last_seq, complete_until_us) = (head.last_seq(), head.complete_until_us);
                steps.push(Step { last_seq, complete_until_us });
            }
            Some(_) => return Ok(false),
        }
    }
}

/// Until when all is published, where the rows up to this one are.
pub(super) fn published_until_us(steps: &[Step], published_seq: i64) -> Option<i64> {
    let is_published = |step: &&Step| step.last_seq.is_none_or(|last_seq| last_seq <= published_seq);
    let published = steps.iter().take_while(is_published).count();
    // The last one counts, not the largest: the clock may have been set back. So it may have been since.
    let last_us = steps.get(..published)?.last()?.complete_until_us;
    let later = steps.iter().skip(published).map(|step| step.complete_until_us);
    Some(later.fold(last_us, i64::min))
}

/// The row up to which all rows are in files, of which each has a highest `seq` and a number of rows: the rows of a run
/// count from 1 without holes, and each is in one file.
pub(super) fn published_seq(files: &mut [(i64, u64)]) -> i64 {
    files.sort_unstable();
    let (mut rows, mut published_seq) = (0_u64, 0);
    for &(last_seq, rows_of_file) in &*files {
        rows = rows.saturating_add(rows_of_file);
        if u64::try_from(last_seq) == Ok(rows) {
            published_seq = last_seq;
        }
    }
    published_seq
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_published_up_to_the_first_that_is_missing() {
        assert_eq!(published_seq(&mut []), 0);
        assert_eq!(published_seq(&mut [(10, 10), (25, 15)]), 25);
        assert_eq!(published_seq(&mut [(25, 15), (10, 9)]), 0, "one of the first ten is missing");
        // Two hours at once: the rows of one lie between those of the other.
        assert_eq!(published_seq(&mut [(10, 10), (19, 7)]), 10);
        assert_eq!(published_seq(&mut [(10, 10), (19, 7), (20, 3)]), 20);
    }

    #[test]
    fn a_time_is_published_with_all_rows_before_it() {
        let step = |last_seq, complete_until_us| Step { last_seq, complete_until_us };
        let steps = [step(None, 5), step(Some(10), 20), step(None, 30), step(Some(15), 40), step(None, 50)];
        for (published_seq, until_us) in [(0, 5), (9, 5), (10, 30), (14, 30), (15, 50)] {
            assert_eq!(published_until_us(&steps, published_seq), Some(until_us), "{published_seq}");
        }
        assert_eq!(published_until_us(&[], 10), None);
        // The clock was set back, which the last frame says whose rows are not published.
        let set_back = [step(Some(10), 20), step(Some(15), 12), step(None, 50)];
        assert_eq!(published_until_us(&set_back, 10), Some(12));
    }
}
