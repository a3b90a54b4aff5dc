//! The counters of the coordinator of transactions.

use jangada_transactions::Outcome;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use super::registered;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

/// Counters of the transactions whose shards this broker leads, and of ends that were to be written here.
#[derive(Clone, Default)]
pub(crate) struct TransactionMetrics {
    decided: Family<OutcomeLabel, Counter>,
    /// Ends that are open in a newer epoch, which no coordinator decides.
    pub fenced_ends: Counter,
}

impl TransactionMetrics {
    /// Counts a transaction whose outcome is durable.
    pub fn decided(&self, outcome: Outcome) {
        self.decided.get_or_create(&label(outcome)).inc();
    }

    pub(super) fn registered(registry: &mut Registry) -> Self {
        let metrics = Self {
            decided: registered(
                registry,
                "transactions_decided",
                "Transactions that were decided, by outcome",
            ),
            fenced_ends: registered(
                registry,
                "transaction_ends_fenced",
                "Ends of transactions that are open here in a newer epoch than any coordinator decided",
            ),
        };
        for outcome in Outcome::ALL {
            drop(metrics.decided.get_or_create(&label(outcome)));
        }
        metrics
    }
}

fn label(outcome: Outcome) -> OutcomeLabel {
    let outcome = match outcome {
        Outcome::Committed => "committed",
        Outcome::Aborted => "aborted",
        Outcome::Fenced => "fenced",
        Outcome::TimedOut => "timed_out",
        Outcome::AbortedByOperator => "aborted_by_operator",
    };
    OutcomeLabel { outcome }
}
