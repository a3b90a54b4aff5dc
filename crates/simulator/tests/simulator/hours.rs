//! What went wrong in other systems, and does not here: each name says what.

use jangada_simulator::hours::{calm, commits, cuts, damage, forgotten, members, power, retries};

/// Each play is played on these.
const SEEDS: [u64; 2] = [1, 2];

macro_rules! hours {
    ($($name:ident: $play:path;)*) => {
        $(
            #[test]
            fn $name() {
                for seed in SEEDS {
                    $play(seed);
                }
            }
        )*
    };
}

hours! {
    a_retry_after_the_leaders_death_landed_twice: retries::after_the_leaders_death;
    a_sequence_that_was_used_again_after_an_abort_was_taken_for_a_duplicate: retries::sequence_after_an_abort;
    a_duplicate_was_told_an_offset_of_the_raft_log: retries::offset_of_a_duplicate;
    not_leader_was_taken_for_a_definite_failure: retries::while_leaders_move;
    an_aborted_write_was_read: commits::aborted_while_leaders_die;
    a_delayed_commit_hit_a_later_transaction: commits::late_commit;
    a_delayed_abort_hit_a_later_transaction: commits::late_abort;
    a_coordinators_state_was_gone_after_an_election: forgotten::coordinators_state;
    sigkill_made_a_node_forget_a_topic: forgotten::topics;
    an_acknowledged_record_was_not_seen_after_a_kill_and_a_membership_change: members::kill_and_change;
    membership_change_kill_and_partition_lost_records: members::kill_change_and_partition;
    a_membership_was_stale_after_a_snapshot: members::filled_by_a_snapshot;
    late_answers_made_a_false_quorum: cuts::late_answers;
    a_flipped_bit_in_one_replica_took_the_tail: damage::flipped_bits;
    a_damaged_snapshot_of_a_minority_had_others_delete: damage::snapshot_of_a_minority;
    acknowledged_before_the_sync_a_power_failure_took_it: power::of_all;
    a_power_failure_and_pauses_made_two_histories: power::loss_and_pauses;
    the_last_one_standing_led_with_what_it_had_lost: power::last_one_standing;
    a_hung_call_froze_everything: cuts::hung_peer;
    a_partial_partition_blocked_elections: cuts::partial;
    a_hub_was_kept_from_leading_by_a_leader_without_a_majority: cuts::hub;
    a_healthy_cluster_lost_records_and_hung: calm::healthy_cluster;
}

#[test]
fn a_play_is_the_same_again_on_its_seed() {
    let (one, again) = (retries::after_the_leaders_death(3), retries::after_the_leaders_death(3));
    crate::running::assert_same(&one, &again);
}
