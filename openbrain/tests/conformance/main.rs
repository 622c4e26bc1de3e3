//! The behaviour that every place to run has in common, and what is peculiar to some.
//!
//! Each case is written once and runs in every place it is listed for, as a test of that name:
//! `direct::deadline_kills_a_grandchild_that_holds_the_pipe`. A new place is one variant of
//! [`support::Place`] and one module below.
//!
//! The cases hold for root and for an ordinary user; `cargo test` runs them as whoever calls.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may fail")]

mod support;

mod audit;
mod background;
mod blocking;
mod commands;
mod deadline;
mod ending;
mod environment;
mod files;
mod host;
mod image;
mod life;
mod limits;
mod many;
mod mounts;
mod opened;
mod ports;
mod programs;
mod results;
mod rootfs;
mod session;
mod shared;
mod shells;
mod stdin;
mod streams;
mod tar;
mod terminal;
mod trees;
mod watches;
mod workdir;

/// Makes a test of every case.
macro_rules! cases {
    ($place:expr, $sharing:expr; $($topic:ident: $($(#[$attribute:meta])* $case:ident,)*;)*) => {
        $($(
            #[test]
            $(#[$attribute])*
            fn $case() {
                let name = concat!(module_path!(), "::", stringify!($case));
                crate::support::run($place, name, $sharing, async |fixture| {
                    crate::$topic::$case(fixture).await;
                });
            }
        )*)*
    };
}

/// What holds everywhere.
macro_rules! cases_of_every_place {
    ($place:expr) => {
        cases! {
            $place, Beside;
            results:
                exit_codes_are_kept,
                a_failure_is_a_value,
                a_signal_is_no_exit_code,
                signals_have_their_default_action,
                check_tells_what_went_wrong,
                the_place_and_its_isolation_are_told,
                times_are_those_of_the_command,
                execution_ids_are_unique,
                processor_time_is_that_of_the_command,
                memory_is_that_of_the_command,
                a_result_reads_the_same_in_json,
            ;
            commands:
                a_string_is_a_script_for_the_shell,
                another_shell_can_be_chosen,
                arguments_arrive_unchanged,
                a_list_has_no_shell,
                a_program_without_language_is_python,
                a_shebang_decides,
                a_language_can_be_named,
                an_unknown_language_is_refused,
                a_long_script_runs,
                long_programs_run,
                a_long_program_keeps_its_exit_code,
                a_long_program_can_read_its_input,
                a_missing_program_is_not_found,
                a_missing_program_in_a_shell_is_127,
                a_missing_interpreter_is_not_found,
                what_is_no_program_is_not_executable,
                a_forbidden_entry_does_not_end_the_search,
                a_forbidden_entry_alone_is_the_reason,
                what_cannot_be_meant_is_refused,
                too_large_arguments_are_refused,
                the_command_has_no_descriptors_of_the_host,
            ;
            streams:
                both_streams_are_apart_and_complete,
                bytes_are_exact,
                nothing_is_added_to_the_last_line,
                a_split_character_is_one_record,
                the_end_is_told_once,
                events_come_while_the_command_runs,
                a_stream_of_any_length_takes_little_memory,
                beyond_the_limit_both_ends_are_kept,
                at_the_limit_nothing_is_cut,
                a_limit_of_nothing_keeps_the_count,
                streams_have_a_limit_each,
                a_closed_output_is_not_the_end,
                a_slow_reader_slows_the_command,
                a_busy_output_does_not_hide_the_errors,
                output_is_waited_for_and_still_delivered,
                output_that_does_not_come_is_not_waited_for_without_bound,
            ;
            stdin:
                nothing_is_end_of_file_at_once,
                bytes_are_read,
                no_bytes_are_end_of_file,
                a_file_is_read,
                a_missing_file_is_refused,
                a_directory_is_refused,
                a_pipe_is_written_while_the_command_runs,
                a_pipe_that_nobody_takes_is_closed,
                a_program_that_reads_nothing_is_not_held,
                much_input_comes_back,
                the_input_of_the_host_can_be_inherited,
            ;
            environment:
                variables_are_set,
                odd_names_and_values_are_kept,
                what_cannot_be_a_variable_is_refused,
            ;
            workdir:
                a_directory_is_entered,
                a_missing_directory_is_refused,
                a_file_is_refused,
            ;
            deadline:
                deadline_kills_a_sleeper,
                deadline_kills_who_ignores_term,
                deadline_kills_a_grandchild_that_holds_the_pipe,
                deadline_kills_a_daemon,
                deadline_kills_a_detached_daemon,
                deadline_kills_a_hidden_daemon,
                deadline_kills_the_stopped,
                deadline_kills_another_process_group,
                deadline_leaves_time_to_end,
                deadline_fires_though_nobody_reads,
                a_command_in_time_is_not_timed_out,
            ;
            ending:
                cancel_leaves_nothing,
                kill_leaves_nothing,
                dropping_the_process_leaves_nothing,
                dropping_the_process_beside_a_handle_leaves_nothing,
                cancelling_again_and_again_gives_no_more_time,
                signal_zero_does_nothing,
                dropping_the_future_leaves_nothing,
                dropping_the_runtime_leaves_nothing,
                a_process_without_its_runtime_is_an_error,
                a_signal_reaches_the_command,
                a_handle_works_from_another_task,
                a_handle_is_harmless_after_the_end,
                cancel_is_gentle,
            ;
            blocking:
                blocking_works_without_a_runtime,
                blocking_works_inside_a_runtime,
                blocking_errors_are_the_same,
            ;
            terminal:
                a_terminal_has_its_size,
                a_terminal_can_be_resized,
                a_terminal_is_typed_on,
                the_input_of_a_terminal_ends,
                errors_arrive_in_the_output,
                control_c_interrupts,
                without_a_terminal_there_is_none,
                deadline_ends_a_terminal,
            ;
            limits:
                open_files_are_limited,
                silly_limits_are_refused,
            ;
            host:
                an_ignored_sigchld_changes_nothing,
            ;
            audit:
                start_and_end_are_recorded,
                endings_are_told_apart_in_the_log,
                what_is_cut_is_cut_in_the_log,
                a_refused_request_is_recorded,
                what_cannot_start_is_recorded,
                nothing_runs_that_cannot_be_recorded,
                an_end_that_cannot_be_recorded_is_a_warning,
                a_dropped_process_has_an_end_in_the_log,
                a_process_that_nobody_reads_has_an_end_in_the_log,
                a_dropped_runtime_leaves_an_end_in_the_log,
            ;
        }
    };
}

/// What holds where openbrain itself makes the processes: on this machine.
macro_rules! cases_of_this_machine {
    ($place:expr) => {
        cases! {
            $place, Beside;
            host:
                a_killed_host_leaves_nothing,
            ;
            audit:
                a_start_that_is_dropped_has_an_end_in_the_log,
                those_are_recorded_that_the_settings_name,
                a_record_without_room_leaves_nothing,
            ;
        }
        cases! {
            $place, Alone;
            many:
                a_hundred_at_once_are_all_right,
                five_hundred_leave_nothing_behind,
                refusals_leave_nothing_behind,
                abandoned_starts_leave_nothing_behind,
            ;
        }
    };
}

/// What holds in every sandbox.
macro_rules! cases_of_every_sandbox {
    ($place:expr) => {
        cases! {
            $place, Beside;
            environment:
                a_secret_of_the_host_is_absent,
            ;
            workdir:
                the_workspace_is_the_default,
                a_relative_directory_is_refused,
                a_directory_of_a_mount_is_entered,
            ;
            background:
                what_a_sandbox_leaves_running_ends_with_it,
            ;
            mounts:
                a_workspace_is_written_through,
                a_read_only_mount_is_never_written,
                several_mounts_are_apart,
                an_exposed_path_is_readable_in_place,
                what_is_not_exposed_is_absent,
                a_workspace_without_mount_is_ephemeral,
                two_mounts_at_one_target_are_refused,
                a_missing_mount_is_named,
                a_file_is_no_workspace,
            ;
        }
    };
}

/// What holds in every sandbox that stays open.
macro_rules! cases_of_every_session {
    ($place:expr) => {
        cases! {
            $place, Beside;
            session:
                files_persist_between_commands,
                every_command_has_the_environment_of_the_sandbox,
                the_facts_of_a_sandbox_are_told,
                a_background_process_outlives_its_command,
                a_killed_command_takes_nobody_else_along,
                commands_run_beside_each_other,
                many_commands_run_one_after_the_other,
                a_terminal_persists_nothing_and_finds_everything,
                dropping_a_sandbox_leaves_nothing,
                killing_a_sandbox_leaves_nothing,
                the_time_of_a_sandbox_ends_it_though_nobody_looks,
                the_end_of_a_sandbox_is_heard,
                a_renewed_sandbox_lives_on,
                a_paused_sandbox_stands_still,
                what_belongs_to_the_sandbox_is_refused,
                a_command_that_cannot_start_harms_nobody,
                an_abandoned_start_leaves_nothing,
                a_mount_is_shared_with_every_command,
                a_slow_reader_holds_nobody_else,
            ;
            files:
                what_is_written_is_read,
                what_is_known_of_a_file_is_told,
                files_are_made_moved_and_removed,
                files_are_found_by_name,
                what_is_wrong_with_a_file_is_told,
                a_tree_comes_back_as_it_went,
                a_tree_that_is_not_there_is_told,
                a_tree_that_changes_leads_nowhere,
                links_lead_through_the_sandbox,
                paths_need_not_be_text,
                files_with_several_names_stay_what_they_are,
                holes_stay_holes,
                an_upload_follows_no_link,
                a_single_file_goes_both_ways,
                a_single_file_leads_nowhere,
            ;
            shells:
                a_shell_keeps_its_directory_and_variables,
                a_shell_keeps_what_is_hard_to_quote,
                a_shell_keeps_what_a_command_leaves_however_it_ends,
                a_killed_command_leaves_the_shell_as_it_was,
                a_shell_shows_nothing_of_itself,
                what_is_unset_stays_unset,
                a_command_of_a_shell_is_an_ordinary_command,
                the_commands_of_a_shell_wait_for_each_other,
                what_a_shell_cannot_run_is_refused,
            ;
            tar:
                an_archive_has_the_tree,
                a_tree_is_made_of_any_archive,
                an_archive_goes_round,
                a_hostile_archive_leads_nowhere,
                a_broken_archive_is_told,
                an_archive_has_a_single_file,
                an_archive_has_an_end,
            ;
            watches:
                changes_are_told_as_they_happen,
                new_directories_are_watched,
                watches_and_connections_last_as_long_as_the_sandbox,
                what_cannot_be_watched_is_told,
            ;
            ports:
                a_port_is_connected_to,
                much_goes_both_ways_through_a_port,
                each_side_of_a_connection_ends_by_itself,
                a_dropped_connection_is_closed_after_what_was_written,
                a_broken_connection_is_told,
                a_port_that_nobody_listens_on_is_refused,
                a_port_is_waited_for,
                a_port_is_forwarded,
                what_cannot_be_forwarded_is_told,
            ;
            shared:
                a_guest_finds_what_the_owner_has,
                a_guest_has_its_commands_to_itself,
                a_guest_may_do_what_the_owner_may,
                the_end_of_the_owner_is_the_end,
                what_is_written_in_the_background_is_kept,
                what_is_too_long_for_the_background_has_a_gap,
                the_background_ends_with_the_sandbox,
            ;
            life:
                the_end_of_a_sandbox_is_told,
                the_time_that_is_left_is_told,
                the_life_of_a_sandbox_is_recorded,
                a_remote_caller_renews_within_the_settings,
                a_file_goes_both_ways_in_pieces,
                no_more_entries_are_told_than_wanted,
            ;
        }
    };
}

mod direct {
    use crate::support::{
        Place::Direct,
        Sharing::{Alone, Beside},
    };

    cases_of_every_place!(Direct);
    cases_of_this_machine!(Direct);

    cases! {
        Direct, Beside;
        environment:
            the_environment_is_the_callers,
            a_variable_of_the_host_is_present,
            a_remote_caller_sees_what_is_passed_on,
        ;
        workdir:
            the_callers_directory_is_the_default,
        ;
        background:
            a_background_process_survives,
            a_survivor_that_writes_does_not_hold_the_result,
            a_survivor_that_never_pauses_does_not_hide_the_end,
        ;
        mounts:
            a_mount_needs_a_sandbox,
        ;
        limits:
            a_memory_limit_needs_a_sandbox,
        ;
    }
}

mod embedded {
    use crate::support::{
        Place::Embedded,
        Sharing::{Alone, Beside},
    };

    cases_of_every_place!(Embedded);
    cases_of_this_machine!(Embedded);
    cases_of_every_sandbox!(Embedded);
    cases_of_every_session!(Embedded);
    cases! {
        Embedded, Beside;
        environment:
            the_environment_is_clean,
        ;
        mounts:
            what_is_written_belongs_to_the_owner,
            an_overlay_is_thrown_away,
        ;
        session:
            a_hundred_commands_at_once_are_all_right,
            a_kept_sandbox_lives_until_the_end_of_its_time,
            a_killed_owner_leaves_what_it_has_kept,
            a_paused_command_can_be_ended,
            nothing_piles_up,
        ;
        ports:
            ipv6_is_connected_to,
            many_connections_are_forwarded,
        ;
        watches:
            a_watch_that_cannot_keep_up_says_so,
        ;
        life:
            work_that_takes_too_long_names_the_setting,
        ;
        files:
            a_file_that_grows_is_copied_up_to_its_end,
            an_upload_reads_nothing_beside_its_source,
            what_cannot_be_uploaded_is_named,
        ;
        rootfs:
            a_rootfs_is_the_system,
            a_rootfs_is_never_written_to,
            mounts_lie_above_a_rootfs,
            a_hostile_rootfs_leads_nowhere,
            what_is_no_rootfs_is_refused,
        ;
        programs:
            git_works,
            make_and_cc_work,
            node_and_npm_work,
            pip_installs_what_is_mounted,
        ;
    }
}

/// Every command in a sandbox that was ready before it.
mod embedded_warm {
    use crate::support::{Place::EmbeddedWarm, Sharing::Beside};

    cases_of_every_place!(EmbeddedWarm);
    cases_of_every_sandbox!(EmbeddedWarm);
    cases! {
        EmbeddedWarm, Beside;
        environment:
            the_environment_is_clean,
        ;
        host:
            a_killed_host_leaves_nothing,
        ;
        mounts:
            what_is_written_belongs_to_the_owner,
        ;
    }
}

/// Every command in a sandbox of its own that stays open.
mod embedded_session {
    use crate::support::{Place::EmbeddedSession, Sharing::Beside};

    cases_of_every_place!(EmbeddedSession);
    cases! {
        EmbeddedSession, Beside;
        host:
            a_killed_host_leaves_nothing,
        ;
        environment:
            a_secret_of_the_host_is_absent,
            the_environment_is_clean,
        ;
        workdir:
            the_workspace_is_the_default,
            a_relative_directory_is_refused,
            a_directory_of_a_mount_is_entered,
        ;
        background:
            a_background_process_survives,
            a_survivor_that_writes_does_not_hold_the_result,
            a_survivor_that_never_pauses_does_not_hide_the_end,
        ;
        mounts:
            a_workspace_is_written_through,
            a_read_only_mount_is_never_written,
            several_mounts_are_apart,
            what_is_written_belongs_to_the_owner,
            an_overlay_is_thrown_away,
        ;
    }
}

/// The real server on a real Docker engine, as `.ci/opensandbox` starts them.
mod opensandbox {
    use crate::support::{Place::Opensandbox, Sharing::Beside};

    cases_of_every_place!(Opensandbox);
    cases_of_every_sandbox!(Opensandbox);
    cases_of_every_session!(Opensandbox);
    cases! {
        Opensandbox, Beside;
        environment:
            the_environment_is_that_of_the_image,
        ;
        mounts:
            a_server_mounts_no_overlay,
        ;
        files:
            a_server_tells_of_no_changes,
        ;
        many:
            twenty_at_once_are_all_right,
        ;
    }
}

/// Every command in a sandbox of its own that stays open, on the real server.
mod opensandbox_session {
    use crate::support::{Place::OpensandboxSession, Sharing::Beside};

    cases! {
        OpensandboxSession, Beside;
        results:
            exit_codes_are_kept,
            a_signal_is_no_exit_code,
            the_place_and_its_isolation_are_told,
        ;
        streams:
            bytes_are_exact,
            a_slow_reader_slows_the_command,
        ;
        stdin:
            bytes_are_read,
            a_pipe_is_written_while_the_command_runs,
        ;
        deadline:
            deadline_kills_a_sleeper,
            deadline_kills_who_ignores_term,
            deadline_kills_a_grandchild_that_holds_the_pipe,
            deadline_kills_a_daemon,
            deadline_kills_a_detached_daemon,
        ;
        ending:
            cancel_leaves_nothing,
            dropping_the_process_leaves_nothing,
            a_signal_reaches_the_command,
        ;
        terminal:
            a_terminal_has_its_size,
            control_c_interrupts,
        ;
    }
}
