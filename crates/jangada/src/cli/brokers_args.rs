//! The flag that says where the cluster is.

use clap::Args;

/// Where the cluster is.
#[derive(Args, Clone, Debug, Default)]
pub struct BrokersArgs {
    /// Brokers to begin with, host:port, separated by commas; one that answers is enough. Default: JANGADA_BROKERS, or
    /// all brokers of the cluster that `up` made in the working directory's jangada-data, or that it runs at
    /// 127.0.0.1:9400, or that address
    #[arg(long, global = true, value_delimiter = ',', value_name = "HOST:PORT,...")]
    pub brokers: Vec<String>,
}
