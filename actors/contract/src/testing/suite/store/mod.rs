//! What every store does.

mod bench;

pub mod accept;
pub mod cancel;
pub mod claim;
pub mod delete;
pub mod ending;
pub mod journal;
pub mod letters;
pub mod memory_reads;
pub mod memory_writes;
pub mod model;
pub mod outbox;
pub mod recovery;
pub mod registry;
pub mod steps;
pub mod tenants;
pub mod transcript;

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;

use crate::port::store::Store;

/// Makes stores of one kind; one factory serves one test.
#[async_trait]
pub trait StoreFactory: fmt::Debug + Send + Sync {
    /// Makes a store with nothing in it, beside a local bus or one elsewhere. Called once.
    async fn fresh(&self, bus_is_local: bool) -> Arc<dyn Store>;

    /// Lets the process of this store die and another one open what it left behind. This is the
    /// only handle to the store; the suite calls `inherit` on what it gets.
    async fn reopen_after_crash(&self, store: Arc<dyn Store>) -> Arc<dyn Store>;

    /// Moves the clock of its stores on. It stands still otherwise, if it can.
    async fn advance(&self, by: Duration);
}

/// Expands into the tests of a store; the expression makes a [`StoreFactory`].
#[macro_export]
macro_rules! store_suite {
    ($factory:expr) => {
        #[tokio::test]
        async fn random_operations_leave_what_they_leave_in_the_store_in_memory() {
            for seed in $crate::testing::suite::store::model::seeds() {
                let factory = $factory;
                $crate::testing::suite::store::model::run(&factory, seed).await;
            }
        }

        $crate::suite_cases! { $factory;
            accept of store {
                numbers_are_gap_free_over_parallel_and_batched_accepts
                the_stored_event_carries_number_place_and_turn
                a_repeated_key_with_the_same_body_answers_the_stored_message
                a_repeated_key_with_another_body_is_refused
                a_key_repeated_within_one_batch_is_one_message
                keys_are_apart_by_tenant_and_route
                a_repeated_event_id_answers_the_stored_message
                an_event_id_of_another_session_or_tenant_is_taken
                a_session_of_another_tenant_is_foreign
                a_mixed_batch_numbers_only_the_survivors
                an_accepted_message_is_a_record_for_the_conversation_worker
                durable_events_go_to_a_bus_elsewhere
            }
            transcript of store {
                a_session_counts_its_messages_events_and_unfinished_turns
                sessions_are_listed_by_newest_activity_in_pages
                an_unreadable_cursor_is_refused
                events_are_paged_in_the_order_of_their_places
                history_is_oldest_first_and_without_the_current_message
                history_puts_each_answer_after_its_message
                history_keeps_the_newest_and_only_what_was_said
                a_message_tells_its_place_its_steps_and_its_end
            }
            delete of store {
                a_deleted_session_takes_no_message_ever_again
                a_repetition_gets_its_first_answer_after_the_deletion_too
                deletion_ends_unfinished_turns_for_those_who_wait
                a_deleted_session_shows_nothing
                deletion_fences_the_owners_of_turn_and_step
                deletion_keeps_memories_unless_asked
                deletion_forgets_memories_if_asked
                deletion_is_repeatable_and_needs_a_session
            }
            claim of store {
                one_turn_of_a_session_runs_at_a_time_the_lowest_first
                a_claim_counts_the_attempt_and_gives_event_and_journal
                every_claim_has_a_new_epoch
                a_waiting_turn_is_claimed_only_after_its_delay
                a_wait_gives_the_attempt_back_and_keeps_its_beginning
                a_drained_turn_is_queued_with_its_attempt_given_back
                a_panic_is_counted_and_its_attempt_spent
                what_was_laid_down_is_fenced
                orphans_are_laid_down_and_living_turns_kept
                claimable_lists_idle_sessions_longest_first
                a_session_becomes_claimable_when_the_turn_before_is_over
                a_claim_acknowledges_the_sessions_records
                sessions_without_turns_are_not_claimed
            }
            journal of store {
                a_repeated_entry_is_one
                steps_are_read_in_order
                progress_clears_the_tries_and_the_wait
                requested_calls_are_records_for_the_tool_executor
                calls_that_come_settled_ask_for_nothing
                worked_time_adds_up_over_claims
            }
            ending of store {
                a_turn_ends_once
                an_end_repeated_under_its_epoch_answers_what_was_stored
                an_end_that_contradicts_itself_is_refused
                an_end_that_was_overtaken_by_a_cancel_is_fenced
                an_end_withdraws_what_was_not_begun
                an_end_keeps_memories_tokens_and_dead_letter_with_it
                an_end_tells_whether_more_waits
                tokens_count_for_the_day_and_the_tenant
                the_backlog_counts_unfinished_turns_by_tenant
            }
            cancel of store {
                the_lowest_unfinished_turn_is_cancelled_by_default
                the_turn_of_an_event_is_cancelled
                all_unfinished_turns_are_cancelled
                a_running_turn_is_flagged_and_ended_by_its_owner
                a_waiting_turn_is_ended_by_the_cancel
                steps_of_a_cancelled_turn_are_withdrawn_and_not_claimed
                there_may_be_nothing_to_cancel
                what_does_not_exist_is_not_cancelled
            }
            recovery of store {
                what_was_answered_survives_a_crash
                an_heir_queues_what_ran_with_its_attempt_spent
                after_a_take_over_every_call_of_the_old_owner_is_fenced
                suspects_run_one_at_a_time
                only_the_deaths_of_suspects_count
                a_lost_once_step_is_unknown_and_told
                a_lost_repeatable_step_runs_again_under_its_effect_id
                the_steps_of_a_suspect_wait_until_it_runs
                an_heir_of_nothing_changes_nothing
            }
            steps of store {
                a_requested_step_is_claimed_once_and_its_start_is_told
                claims_are_bounded_and_in_order
                a_claim_tells_who_asked
                a_claim_acknowledges_the_steps_records
                settling_keeps_result_event_and_memories_together
                a_step_settles_once
                a_step_of_a_turn_that_is_over_does_not_settle
                an_unclaimed_step_is_requested_again
                an_executors_orphans_are_lost_each_by_its_effect
                a_beat_tells_that_the_turn_stops
            }
            outbox of store {
                rows_leave_in_their_order_when_delivered
                shards_that_are_not_held_give_and_take_nothing
                a_refused_row_is_a_dead_letter_and_later_rows_go_on
                records_are_read_until_acknowledged
                a_topic_that_nobody_reads_keeps_no_row_beside_a_local_bus
                a_record_is_buried_once_per_group_and_event
            }
            memory_writes of store {
                versions_count_from_one_for_each_memory
                a_repeated_event_is_one_write
                of_each_memory_only_the_earliest_write_is_delivered
                a_settled_write_is_in_the_replica_and_a_record
                a_postponed_write_holds_back_its_memory_only
                a_refused_write_is_a_dead_letter_and_others_go_on
                the_higher_version_wins_in_the_replica
                a_write_without_version_only_fills_a_gap
                a_tombstone_outlives_older_writes
            }
            memory_reads of store {
                search_finds_what_was_just_said
                search_ranks_and_bounds
                search_filters
                an_empty_search_lists_the_newest_first
                a_search_of_pending_writes_sees_only_those
                a_memory_is_read_in_its_newest_version_until_deleted
                the_export_pages_in_the_order_of_ids
            }
            letters of store {
                dead_letters_are_listed_newest_first_in_pages
                a_replayed_turn_keeps_its_journal_and_ends_anew
                a_replay_twice_before_the_end_is_one
                a_replayed_turn_waits_for_the_one_that_runs
                a_replayed_memory_write_waits_with_its_version
                a_refused_row_waits_again_and_a_buried_record_cannot
                a_dropped_dead_letter_is_gone
            }
            registry of store {
                keys_are_kept_listed_touched_and_revoked
                personas_are_replaced_and_listed_by_id
                an_upload_is_read_as_it_was_kept
                the_first_recorded_answer_stays
                what_is_too_old_is_retired
                the_steps_of_a_turn_stay_while_it_can_be_replayed
                depths_count_what_waits
                a_store_that_answers_pings
            }
            tenants of store {
                tenants_never_see_each_others_rows
                tenants_never_change_each_others_rows
                a_memory_id_of_another_tenant_is_a_new_memory
            }
        }
    };
}
