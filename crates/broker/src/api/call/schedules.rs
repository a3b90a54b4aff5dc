//! Schedules of queues: what only the leader of a partition can do with those that belong to it.

use jangada_types::{PartitionIndex, QueueId};

use super::queues::QueuePartition;
use crate::queues::{NewSchedule, ScheduleFound};

/// Puts a schedule into one partition of its queue.
#[derive(Debug)]
pub(crate) struct PutSchedule {
    pub at: QueuePartition,
    pub schedule: NewSchedule,
}

/// Deletes a schedule of one partition.
#[derive(Debug)]
pub(crate) struct DeleteSchedule {
    pub at: QueuePartition,
    pub name: String,
}

/// Asks for schedules of the partitions that the other broker leads.
#[derive(Clone, Debug)]
pub(crate) struct SchedulesHere {
    pub queue: QueueId,
    /// Only those of this name; none: any.
    pub name: Option<String>,
    /// Only those whose names are behind this one.
    pub after: String,
    /// At most so many of each partition.
    pub limit: usize,
}

/// Schedules of a partition, by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PartitionSchedules {
    pub index: PartitionIndex,
    pub schedules: Vec<ScheduleFound>,
}
