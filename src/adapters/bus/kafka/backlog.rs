//! What a consumer has read and not yet committed: a queue, and how far each partition is done.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use soma_contract::port::bus::{Position, Record};

/// Records that wait to be received; with more, reading pauses until half of them are gone.
const MOST_RECORDS: usize = 1_024;
/// Their bytes, likewise.
const MOST_BYTES: usize = 16 * 1_024 * 1_024;
/// Records that were received and not acknowledged. Beyond it something has lost them, and they
/// are read again.
const MOST_IN_HAND: usize = 4_096;

/// Read, received, done.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    waiting: VecDeque<Record>,
    bytes: usize,
    partitions: BTreeMap<i32, Progress>,
}

/// How far a partition is done.
#[derive(Debug)]
struct Progress {
    /// Read and not acknowledged.
    unfinished: BTreeSet<i64>,
    /// Behind the last that was read.
    next: i64,
    /// What the brokers know.
    committed: i64,
}

impl Progress {
    /// The lowest offset that is not done: everything before it is.
    fn done(&self) -> i64 {
        self.unfinished.first().copied().unwrap_or(self.next)
    }
}

impl Backlog {
    /// Takes in a record that was read.
    pub(super) fn push(&mut self, record: Record) {
        let Position::Offset { partition, offset } = record.position else { return };
        if self.partitions.get(&partition).is_some_and(|progress| offset < progress.next) {
            // The log begins anew, or is read again: what was known of it is about another time.
            self.forget(partition);
        }
        let progress = self.partitions.entry(partition).or_insert_with(|| Progress {
            unfinished: BTreeSet::new(),
            next: offset,
            committed: offset,
        });
        progress.unfinished.insert(offset);
        progress.next = offset + 1;
        self.bytes += record.payload.len();
        self.waiting.push_back(record);
    }

    /// Hands out at most this many records.
    pub(super) fn take(&mut self, most: usize) -> Vec<Record> {
        let count = most.min(self.waiting.len());
        let records: Vec<Record> = self.waiting.drain(..count).collect();
        self.bytes -= records.iter().map(|record| record.payload.len()).sum::<usize>();
        records
    }

    /// Notes that the effect of records is committed; of unknown ones nothing.
    pub(super) fn finish(&mut self, records: &[Record]) {
        for record in records {
            if let Position::Offset { partition, offset } = record.position
                && let Some(progress) = self.partitions.get_mut(&partition)
            {
                progress.unfinished.remove(&offset);
            }
        }
    }

    /// Returns what may be committed and is not, by partition.
    pub(super) fn committable(&self) -> Vec<(i32, i64)> {
        let ahead = self.partitions.iter().filter(|(_, at)| at.done() > at.committed);
        ahead.map(|(&partition, progress)| (partition, progress.done())).collect()
    }

    /// Notes what the brokers know, or, after a failed commit, that they do not.
    pub(super) fn committed(&mut self, partition: i32, offset: i64) {
        if let Some(progress) = self.partitions.get_mut(&partition) {
            progress.committed = offset;
        }
    }

    /// Drops everything of a partition that belongs to another consumer now.
    pub(super) fn forget(&mut self, partition: i32) {
        self.partitions.remove(&partition);
        self.waiting.retain(|record| {
            !matches!(record.position, Position::Offset { partition: of, .. } if of == partition)
        });
        self.bytes = self.waiting.iter().map(|record| record.payload.len()).sum();
    }

    /// Drops everything.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Whether reading has to pause.
    pub(super) fn is_full(&self) -> bool {
        self.waiting.len() >= MOST_RECORDS || self.bytes >= MOST_BYTES
    }

    /// Whether reading may go on.
    pub(super) fn has_room(&self) -> bool {
        self.waiting.len() <= MOST_RECORDS / 2 && self.bytes <= MOST_BYTES / 2
    }

    /// Whether more was received and never acknowledged than anybody can be working on.
    pub(super) fn has_lost_some(&self) -> bool {
        let unfinished: usize = self.partitions.values().map(|at| at.unfinished.len()).sum();
        unfinished - self.waiting.len().min(unfinished) > MOST_IN_HAND
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use soma_contract::topic::Topic;

    use super::*;

    fn record(partition: i32, offset: i64) -> Record {
        Record {
            topic: Topic::ConversationInbound,
            position: Position::Offset { partition, offset },
            session_id: None,
            headers: BTreeMap::new(),
            payload: bytes::Bytes::from_static(b"x"),
        }
    }

    #[test]
    fn nothing_behind_an_unfinished_record_is_committed() {
        let mut backlog = Backlog::default();
        for offset in 5..9 {
            backlog.push(record(0, offset));
        }
        backlog.finish(&[record(0, 6), record(0, 8)]);
        assert_eq!(backlog.committable(), []);
        backlog.finish(&[record(0, 5)]);
        assert_eq!(backlog.committable(), [(0, 7)]);
        backlog.committed(0, 7);
        assert_eq!(backlog.committable(), []);
        backlog.finish(&[record(0, 7)]);
        assert_eq!(backlog.committable(), [(0, 9)]);
    }

    #[test]
    fn a_failed_commit_is_made_again() {
        let mut backlog = Backlog::default();
        backlog.push(record(0, 0));
        backlog.finish(&[record(0, 0)]);
        backlog.committed(0, 1);
        backlog.committed(0, -1);
        assert_eq!(backlog.committable(), [(0, 1)]);
    }

    #[test]
    fn a_partition_that_is_lost_leaves_nothing() {
        let mut backlog = Backlog::default();
        backlog.push(record(0, 0));
        backlog.push(record(1, 0));
        backlog.forget(0);
        backlog.finish(&[record(0, 0)]);
        assert_eq!(backlog.committable(), []);
        assert_eq!(backlog.take(10), [record(1, 0)]);
    }

    #[test]
    fn a_log_that_begins_anew_is_read_from_its_beginning() {
        let mut backlog = Backlog::default();
        backlog.push(record(0, 700));
        backlog.push(record(0, 0));
        assert_eq!(backlog.take(10), [record(0, 0)]);
        backlog.finish(&[record(0, 0)]);
        assert_eq!(backlog.committable(), [(0, 1)]);
    }

    #[test]
    fn a_full_backlog_has_room_again_at_half() {
        let mut backlog = Backlog::default();
        for offset in 0..1_024 {
            assert!(!backlog.is_full());
            backlog.push(record(0, offset));
        }
        assert!(backlog.is_full());
        backlog.take(511);
        assert!(!backlog.is_full() && !backlog.has_room());
        backlog.take(1);
        assert!(backlog.has_room());
    }

    #[test]
    fn records_that_are_never_acknowledged_are_noticed() {
        let mut backlog = Backlog::default();
        for offset in 0..4_097 {
            backlog.push(record(0, offset));
        }
        assert!(!backlog.has_lost_some(), "they wait");
        backlog.take(4_096);
        assert!(!backlog.has_lost_some());
        backlog.take(1);
        assert!(backlog.has_lost_some());
    }

    proptest! {
        /// Whatever is acknowledged in whatever order, a restart reads all that was not.
        #[test]
        fn every_unacknowledged_record_is_read_again(
            read in prop::collection::vec(0_i32..3, 1..60),
            finished in prop::collection::vec(prop::bool::ANY, 60),
        ) {
            let mut backlog = Backlog::default();
            let mut next = [0_i64; 3];
            let mut all = Vec::new();
            for partition in read {
                let offset = &mut next[usize::try_from(partition).unwrap()];
                all.push(record(partition, *offset));
                *offset += 1;
            }
            for record in &all {
                backlog.push(record.clone());
            }
            let (done, left): (Vec<_>, Vec<_>) =
                all.into_iter().zip(finished).partition(|(_, is_done)| *is_done);
            let done: Vec<Record> = done.into_iter().map(|(record, _)| record).collect();
            backlog.finish(&done);
            for (partition, committed) in backlog.committable() {
                for (record, _) in &left {
                    let Position::Offset { partition: of, offset } = record.position else {
                        unreachable!()
                    };
                    prop_assert!(of != partition || offset >= committed);
                }
            }
        }
    }
}
