//! Settings of transactions.

settings! {
    /// Transactions. All brokers of a cluster should have the same settings.
    TransactionSettings {
        keys {
            /// The longest that a transaction may be open, milliseconds (15 minutes): producers that ask for longer are refused. Readers of
            /// committed records wait for open transactions.
            max_timeout_ms: u32 = 900_000, range(1_000, 86_400_000);
            /// How long a transactional id is kept that is not used, milliseconds (7 days).
            id_expiration_ms: u64 = 604_800_000, range(60_000, 31_536_000_000);
        }
        sections {}
    }
}
