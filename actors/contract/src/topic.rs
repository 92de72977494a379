//! Topics, consumer groups and who reads what: the static table of the bus.

use serde::{Deserialize, Serialize};

/// A stream of records on the bus, with the predecessor's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Topic {
    /// Accepted messages.
    #[serde(rename = "conversation.inbound")]
    ConversationInbound,
    /// Durable events of sessions, for outside readers.
    #[serde(rename = "conversation.outbound")]
    ConversationOutbound,
    /// Tool steps that ask to be run.
    #[serde(rename = "tool.requests")]
    ToolRequests,
    /// Results of tool steps, for outside readers.
    #[serde(rename = "tool.results")]
    ToolResults,
    /// Memory writes that the memory service has taken.
    #[serde(rename = "memory.wal")]
    MemoryWal,
}

/// A consumer group, with the predecessor's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Group {
    /// Reads `conversation.inbound`.
    ConversationWorker,
    /// Reads `tool.requests`.
    ToolExecutor,
    /// Reads `memory.wal`.
    MemoryReplicator,
}

impl Topic {
    /// Every topic.
    pub const ALL: [Self; 5] = [
        Self::ConversationInbound,
        Self::ConversationOutbound,
        Self::ToolRequests,
        Self::ToolResults,
        Self::MemoryWal,
    ];

    /// Returns the topic's name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ConversationInbound => "conversation.inbound",
            Self::ConversationOutbound => "conversation.outbound",
            Self::ToolRequests => "tool.requests",
            Self::ToolResults => "tool.results",
            Self::MemoryWal => "memory.wal",
        }
    }

    /// Returns the topic of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|topic| topic.as_str() == name)
    }

    /// Returns the groups that read this topic; on the local bus a topic without one keeps no row.
    pub const fn groups(self) -> &'static [Group] {
        match self {
            Self::ConversationInbound => &[Group::ConversationWorker],
            Self::ToolRequests => &[Group::ToolExecutor],
            Self::MemoryWal => &[Group::MemoryReplicator],
            Self::ConversationOutbound | Self::ToolResults => &[],
        }
    }
}

impl Group {
    /// Returns the group's name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ConversationWorker => "conversation-worker",
            Self::ToolExecutor => "tool-executor",
            Self::MemoryReplicator => "memory-replicator",
        }
    }

    /// Returns the one topic that the group reads.
    pub const fn topic(self) -> Topic {
        match self {
            Self::ConversationWorker => Topic::ConversationInbound,
            Self::ToolExecutor => Topic::ToolRequests,
            Self::MemoryReplicator => Topic::MemoryWal,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_directions_of_the_table_agree() {
        for topic in Topic::ALL {
            assert_eq!(Topic::named(topic.as_str()), Some(topic));
            for group in topic.groups() {
                assert_eq!(group.topic(), topic);
            }
        }
    }
}
