//! What can be typed. clap makes the help from the comments here; what the commands do stands in `commands`.

mod bench;
mod brokers_args;
mod cluster;
mod consume;
mod dlq;
mod exchange;
mod exchange_messages;
mod group;
mod message_args;
mod parse;
mod process;
mod produce;
mod queue;
mod queue_messages;
mod saga;
mod schedule;
mod topic;
mod txn;
mod when;

use clap::{Parser, Subcommand};
use clap_complete::Shell;

pub use bench::{
    BenchCommand, ConsumeBench, CpuArgs, DiskBench, DiskMode, E2eBench, PayloadKind, ProduceBench, QueueBench,
    QueueHalf, StoreBench, TxnBench,
};
pub use brokers_args::BrokersArgs;
pub use cluster::{ClusterCommand, HealthArgs, PartitionCommand, RemoveArgs, ReplaceArgs, TransferArgs};
pub use consume::{CommitArg, ConsumeArgs, ConsumeOutput};
pub use dlq::{DeadArgs, DlqCommand};
pub use exchange::{BindArgs, CreateExchangeArgs, ExchangeCommand, MatchArgs, TraceArgs};
pub use exchange_messages::{ExchangeMessagesCommand, PublishArgs, TapArgs};
pub use group::{GroupCommand, GroupRemoveArgs, LagArgs, SeekArgs, ToArg};
pub use process::{DownArgs, ServerArgs, ServerCommand, UpArgs};
pub use produce::{ProduceArgs, ProduceFormat};
pub use queue::{AlterQueueArgs, CreateQueueArgs, QueueCommand, QueueFromArg};
pub use queue_messages::{
    QueueConsumeArgs, QueueMessagesCommand, QueueOutput, QueuePeekArgs, QueueReceiveArgs, QueueSendArgs,
    QueueSendFormat,
};
pub use saga::{PhaseArg, SagaCommand, SagaListArgs};
pub use schedule::{CatchUpArg, ScheduleCommand, SchedulePutArgs};
pub use topic::{AlterArgs, BeforeArg, CreateArgs, TopicCommand, TrimArgs};
pub use txn::{TxnCommand, TxnListArgs};
pub use when::{FromArg, UntilArg};

/// Jangada: a partitioned log cluster, each partition replicated by its own Raft group.
///
/// Exit codes: 0 fine, 1 error, 2 wrong usage, 3 cluster unhealthy.
#[derive(Debug, Parser)]
#[command(name = "jangada", version, about, long_about, max_term_width = 110)]
pub struct Cli {
    #[command(flatten)]
    pub brokers: BrokersArgs,

    /// Which log lines to show on stderr, such as `info` or `jangada_client=debug` (not for `server`, which has
    /// settings)
    #[arg(
        long,
        global = true,
        env = "JANGADA_LOG",
        default_value = "error",
        value_name = "FILTER",
        hide_env_values = true
    )]
    pub log: String,

    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start a cluster on this machine, one process for each node
    ///
    /// Node i listens on PORT+i-1 (gRPC), PORT+40+i-1 (other nodes) and PORT+80+i-1 (HTTP: /metrics, /livez, /readyz).
    /// Its settings, data, log and process id are in DIR/node-i. On a directory with a stopped or killed cluster, that
    /// cluster starts again with its data.
    Up(UpArgs),

    /// Stop the cluster that `up` started
    Down(DownArgs),

    /// Run one broker, or check its settings
    #[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
    Server(ServerArgs),

    /// Create, show, change and delete topics
    #[command(subcommand)]
    Topic(TopicCommand),

    /// Create, show, change, pause and delete queues
    #[command(subcommand)]
    Queue(QueueCommand),

    /// Create, show, bind and delete exchanges, publish to them, watch what they get
    #[command(subcommand)]
    Exchange(ExchangeCommand),

    /// List dead letters of queues, let them go out again, delete them
    #[command(subcommand)]
    Dlq(DlqCommand),

    /// Have messages sent to queues again and again, as cron does or every so often
    #[command(subcommand)]
    Schedule(ScheduleCommand),

    /// Write lines of stdin or a file to a topic, one record a line
    ///
    /// A record is exactly the bytes between newlines: a carriage return and bytes that are not UTF-8 are data, an
    /// empty line is an empty record, a last line without a newline is a record. Records leave as lines arrive. The
    /// command ends with 0 only if every record was acknowledged.
    Produce(ProduceArgs),

    /// Print the records of a topic
    ///
    /// With --group as a member of a consumer group: it shares the partitions with the other members, begins at the
    /// committed offsets, and commits. SIGINT and SIGTERM end it after committing what was written.
    Consume(ConsumeArgs),

    /// Show consumer groups and their lag, move or delete their offsets
    #[command(subcommand)]
    Group(GroupCommand),

    /// Show transactions and the producers of partitions, abort a transaction
    #[command(subcommand)]
    Txn(TxnCommand),

    /// Show sagas, retry or abort those that are stuck
    #[command(subcommand)]
    Saga(SagaCommand),

    /// Show the cluster and its health, replace a broker
    #[command(subcommand)]
    Cluster(ClusterCommand),

    /// Show partitions, move leaders
    #[command(subcommand)]
    Partition(PartitionCommand),

    /// Measure the cluster, the store, or the disk
    #[command(subcommand)]
    Bench(BenchCommand),

    /// Print a completion script for a shell: `source <(jangada completion bash)`
    ///
    /// It completes commands, flags and their values, and asks the cluster for names of topics, queues, exchanges and groups.
    Completion {
        /// Which shell
        shell: Shell,
    },
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn the_definitions_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn brokers_are_taken_before_and_after_the_subcommand() {
        for line in [
            "jangada --brokers a:1,b:2 topic ls",
            "jangada topic --brokers a:1,b:2 ls",
            "jangada topic ls --brokers a:1,b:2",
        ] {
            assert_eq!(parse(line).expect(line).brokers.brokers, ["a:1", "b:2"], "{line}");
        }
    }

    #[test]
    fn wrong_usage_ends_with_2() {
        for line in [
            "jangada",
            "jangada topic create",
            "jangada topic create x --partitions 0",
            "jangada topic trim x",
            "jangada queue create",
            "jangada queue send",
            "jangada queue send q -k a -K :",
            "jangada queue send q --delay 1h --at 2024-05-01T00:00:00Z",
            "jangada queue receive q --max 1001",
            "jangada queue consume q --prefetch 0",
            "jangada queue peek q --state gone",
            "jangada queue create q --partitions 0",
            "jangada queue create q --topic t --partitions 2",
            "jangada queue create q --from latest",
            "jangada queue create q --topic t --from 5",
            "jangada queue create q --topic t --from -5",
            "jangada queue create q -c lease",
            "jangada queue alter q",
            "jangada queue pause",
            "jangada queue seek q",
            "jangada queue seek q --to 5",
            "jangada exchange create e",
            "jangada exchange create e --type x-delayed-message",
            "jangada exchange rm",
            "jangada exchange bind e --key k",
            "jangada exchange bind e --queue q --match some",
            "jangada exchange bind e --queue q --header =v",
            "jangada exchange unbind e",
            "jangada exchange trace",
            "jangada exchange trace e --header a",
            "jangada exchange publish",
            "jangada exchange publish e -k a -K :",
            "jangada exchange publish e --body b --file f",
            "jangada exchange publish e --delay 1h --at 2024-05-01T00:00:00Z",
            "jangada exchange publish e --format jsonl --message-id i",
            "jangada exchange tap",
            "jangada exchange tap e --max 0",
            "jangada dlq redrive q --rate 0",
            "jangada dlq ls q --reason old",
            "jangada dlq ls q --died-before 5",
            "jangada dlq peek q --max 0",
            "jangada topic create x --partitions 1 --replicas 1 -c retention",
            "jangada produce x --format jsonl --key-separator :",
            "jangada consume x -f %v -o jsonl",
            "jangada consume x --from yesterday",
            "jangada consume",
            "jangada consume x --until 9999-01-01T00:00:00Z",
            "jangada consume x --from 5 --last 3",
            "jangada consume x --last 3 --since 1h",
            "jangada consume x --since 5m",
            "jangada consume x --group g --last 3",
            "jangada consume x --group g --until 3",
            "jangada consume x --group g --since 1h",
            "jangada consume x -o jsonl --value-as hex",
            "jangada consume x --value-as octal",
            "jangada produce",
            "jangada produce x -t x",
            "jangada produce x -k a -K :",
            "jangada produce x -H a",
            "jangada produce x -D",
            "jangada produce x --tombstone",
            "jangada produce x -K : --tombstone",
            "jangada produce x --format jsonl --tombstone",
            "jangada produce x --format jsonl --expect-key-offset 1",
            "jangada produce x -k a --tombstone --file f",
            "jangada produce x -Z --null N",
            "jangada produce x --format jsonl --value-as hex",
            "jangada produce x --timestamp yesterday",
            "jangada produce x --expect-end-offset 5",
            "jangada produce x -p 0 --expect-end-offset -5",
            "jangada produce x -K : --expect-key-offset none",
            "jangada produce x -k a -p 0 --expect-key-offset none --expect-end-offset 1",
            "jangada up --wait 5m",
            "jangada bench produce --topic t --record-bytes 1K",
            "jangada consume x --commit after",
            "jangada consume x --group g --partition 1",
            "jangada group seek g --to earliest",
            "jangada group seek g",
            "jangada group seek g --topic t",
            "jangada group seek g --from-file f --topic t --to latest",
            "jangada group seek g --to-file f --execute",
            "jangada group rm g --partition 1",
            "jangada group seek g --topic t --to soon",
            "jangada server",
            "jangada up --nodes 0",
            "jangada up --wait 18446744073709551615",
            "jangada down --wait 86401",
            "jangada cluster health --wait 18446744073709551615",
            "jangada bench produce --topic t --rate -5",
            "jangada bench produce --topic t --rate nan",
            "jangada bench produce --topic t --rate 1e-20",
            "jangada bench e2e --topic t --rate 1e13",
            "jangada bench e2e --topic t --rate 0",
            "jangada bench e2e --topic t --seconds 0",
            "jangada completion tcsh-like",
        ] {
            let error = parse(line).expect_err(line);
            assert_eq!(error.exit_code(), 2, "{line}: {error}");
        }
    }

    #[test]
    fn the_documented_lines_parse() {
        for line in [
            "jangada up --nodes 5 --dir d --port 9500 --detach",
            "jangada down --dir d",
            "jangada server --config f",
            "jangada server --config f --set raft.heartbeat_ms=100 --set rack=a",
            "jangada server check-config f -o json",
            "jangada topic create t --partitions 3 --replicas 3 -c retention.ms=1 -c x=y --if-not-exists",
            "jangada topic create t",
            "jangada topic ls -o json",
            "jangada topic alter t -c retention.ms=1",
            "jangada topic alter t --unset retention.ms",
            "jangada topic alter t --partitions 24",
            "jangada topic trim t --before 5",
            "jangada topic trim t --partition 1 --before latest",
            "jangada topic rm t --yes",
            "jangada queue create q",
            "jangada queue send q -K : -H a=b --delay 10d --ttl 20d --priority 3",
            "jangada queue send q --format jsonl --file f",
            "jangada queue receive q --max 10 --wait 20s --lease 5min --ack -o jsonl",
            "jangada queue consume q --idle 5 -c 10 --prefetch 100",
            "jangada queue peek q --state dead --state waiting -p 1",
            "jangada bench queue --queue q --producers 2 --consumers 3 --batch 10 --rate 1000",
            "jangada queue create q -p 3 -r 3 -c queue.lease.ms=1min -c queue.order=key --if-not-exists -o json",
            "jangada queue create q -t t --from latest",
            "jangada queue create q --topic t --from -1h",
            "jangada queue create q --topic t --from 2024-05-01T00:00:00Z",
            "jangada queue ls -o json",
            "jangada queue describe q",
            "jangada queue alter q -c queue.paused=true --unset queue.lease.ms",
            "jangada queue pause q",
            "jangada queue resume q",
            "jangada queue rm q --yes",
            "jangada queue purge q --partition 1 --yes",
            "jangada queue seek q --to earliest",
            "jangada queue seek q --to -1h --partition 0",
            "jangada exchange create e -t topic --alternate a --internal --auto-delete --if-not-exists -o json",
            "jangada exchange ls -o json",
            "jangada exchange describe e",
            "jangada exchange rm e --if-unused --yes",
            "jangada exchange bind e --queue q --queue r --key a.* -k # -o json",
            "jangada exchange bind e --exchange f --header a=1 --header b --match any-with-x",
            "jangada exchange bind e --queue q --match all",
            "jangada exchange unbind e --queue q --key a.*",
            "jangada exchange trace e --key a.b -H c=d -o json",
            "jangada exchange publish e -k a.b --body b --mandatory --message-id i --message-key m",
            "jangada exchange publish e -K : --order-key o --delay 1h -o json",
            "jangada exchange publish e --format jsonl --file f",
            "jangada exchange tap e --key a.* --key # -c 10 --idle 5 -o jsonl",
            "jangada dlq ls q --reason attempts --reason expired -o json",
            "jangada dlq redrive q --rate 100 --dry-run",
            "jangada dlq redrive q --died-before 1h --died-since 2024-05-01T00:00:00Z --key a",
            "jangada dlq peek q --reason rejected -c 100 -o lines",
            "jangada dlq purge q --partition 0 --yes",
            "jangada produce t --file f --key-separator : --acks none --compression zstd",
            "jangada consume t --from 2024-05-01T00:00:00Z --max 3 --exit-at-end -o jsonl",
            "jangada consume t --partition 0 --from 12 -f %o\\t%v\\n",
            "jangada consume a b --pattern c.* --since 1h --until -1min -e -c 5",
            "jangada consume -t a -t b --from-beginning -e --max-messages 3",
            "jangada consume t --from -10 -p 0,2 --key-as hex --value-as base64 --null NULL",
            "jangada consume t --last 10 --until 2024-05-01T00:00:00Z",
            "jangada consume t -g g --session-timeout 10s",
            "jangada consume t -g g --session-timeout-ms 10000",
            "jangada produce -t t -k a -H b=c -H d= --timestamp 1714564800000 -p 3 -z zstd",
            "jangada produce t -k a --tombstone",
            "jangada produce t -K : -Z -D ; --value-as hex",
            "jangada produce t -p 0 --expect-end-offset 0",
            "jangada produce t -k a --expect-key-offset none",
            "jangada produce t -k a --expect-key-offset 7",
            "jangada up --wait 2min",
            "jangada bench produce --topic t --record-bytes 1KiB --total-bytes 1GiB --linger 5ms",
            "jangada bench e2e --topic t --duration 1min",
            "jangada consume t --group g --from latest --reset error",
            "jangada consume t --group g --instance-id i --commit before --exit-at-end --max 3 -f %v",
            "jangada group ls -o json",
            "jangada group describe g",
            "jangada group lag g --watch",
            "jangada group rm g --yes",
            "jangada group rm g --topic t --topic u --partition 0,2 --yes",
            "jangada group seek g --from-file f --execute",
            "jangada group seek g --to-file f",
            "jangada group seek g --topic t --to -1h --to-file f",
            "jangada group seek g --topic t --partition 1 --to -5 --execute",
            "jangada group seek g --topic t --to +5",
            "jangada group seek g --topic t --to 2024-05-01T00:00:00Z -o json",
            "jangada cluster health --wait 30",
            "jangada cluster info -o json",
            "jangada cluster replace-broker 2 --yes",
            "jangada cluster remove-broker 77 --yes",
            "jangada partition ls t",
            "jangada partition transfer-leader t 0 --to 2",
            "jangada bench produce --topic t --rate 0",
            "jangada bench produce --topic t --rate 1e8",
            "jangada bench e2e --topic t --rate 0.001 --seconds 86400",
            "jangada bench disk --dir d --total-bytes 1073741824 --batch-bytes 65536 --mode overwrite",
            "jangada completion bash",
        ] {
            if let Err(error) = parse(line) {
                panic!("{line}: {error}");
            }
        }
    }
}
