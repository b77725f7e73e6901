"""The engine's configuration files, written at each start: limits for a small machine, row policies, no file or
network access.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from xml.sax.saxutils import escape as xml_escape

from tracebility_engine.settings import DATABASE, FrontSettings

_MIB = 1 << 20

# Settings of every session. The insert settings are all explicit: their defaults moved between engine versions.
SESSION_SETTINGS: dict[str, str] = {
    "async_insert": "0",
    "wait_for_async_insert": "1",
    "deduplicate_insert": "enable",
    "deduplicate_blocks_in_dependent_materialized_views": "1",
    "insert_deduplicate": "1",
    # An insert up to this size is one part per partition, and nothing of it is visible before all of it is. Those of
    # the worker have 10 MB. The engine's own bound of 256 MB takes 900 MB for an insert of 400.
    "min_insert_block_size_rows": "1048449",
    "min_insert_block_size_bytes": str(64 * _MIB),
    "input_format_max_block_size_bytes": str(32 * _MIB),
    "max_insert_block_size": "1048449",
    "max_insert_threads": "1",
    "insert_quorum": "0",
    "fsync_metadata": "1",
    # The local engine reads bare expressions as queries; a server refuses them, and so do we.
    "implicit_select": "0",
    "allow_introspection_functions": "0",
    "enable_http_compression": "1",
    "max_threads": "2",
    "max_block_size": "65409",
    "max_bytes_before_external_group_by": str(512 * _MIB),
    "max_bytes_before_external_sort": str(512 * _MIB),
    "log_queries": "0",
    "log_profile_events": "0",
    "enable_deflate_qpl_codec": "0",
    "session_timezone": "UTC",
}

# Settings that a read-only session may change: form and limits of an answer, never the org.
READER_SETTINGS = (
    "max_execution_time",
    "max_result_rows",
    "max_result_bytes",
    "result_overflow_mode",
    "timeout_overflow_mode",
    "max_rows_to_read",
    "max_bytes_to_read",
    "read_overflow_mode",
    "max_block_size",
    "max_threads",
    "date_time_output_format",
    "date_time_input_format",
    "output_format_json_quote_64bit_integers",
    "output_format_native_write_json_as_string",
    "cast_string_to_dynamic_use_inference",
    "optimize_read_in_order",
    "use_skip_indexes",
    "final",
    "join_use_nulls",
    "use_query_cache",
    "use_query_condition_cache",
)

# No file and no network, for anyone. SHOW ACCESS would show the policies' filters.
_GRANTS = ("GRANT ALL ON *.*", "REVOKE SOURCES ON *.*", "REVOKE BACKUP ON *.*", "REVOKE SHOW ACCESS ON *.*")

_MERGE_TREE = {
    # kill -9 of the process loses nothing without fsync: the pages are the kernel's. A power cut may.
    "fsync_after_insert": "0",
    "fsync_part_directory": "0",
    "old_parts_lifetime": "30",
    # A part that a failed write left is set aside at the start, however large it is: its rows are in other parts, or
    # nobody was told that they are kept. The engine's own bounds would refuse to start, for all orgs and for good.
    "max_suspicious_broken_parts": "1000000",
    "max_suspicious_broken_parts_bytes": str(1 << 60),
    "parts_to_delay_insert": "1000",
    "parts_to_throw_insert": "3000",
    "max_bytes_to_merge_at_max_space_in_pool": str(8 << 30),
    "non_replicated_deduplication_window": "0",
    "merge_max_block_size": "4096",
    # Merges were two fifths of the engine's CPU under load: fewer, wider ones rewrite a row less often.
    "merge_selector_base": "16",
    "min_parts_to_merge_at_once": "6",
    "enable_mixed_granularity_parts": "1",
}

_SERVER = {
    "mark_cache_size": 64 * _MIB,
    "uncompressed_cache_size": 0,
    "index_mark_cache_size": 16 * _MIB,
    "index_uncompressed_cache_size": 0,
    "primary_index_cache_size": 64 * _MIB,
    "mmap_cache_size": 64,
    "compiled_expression_cache_size": 8 * _MIB,
    "compiled_expression_cache_elements_size": 1000,
    "query_condition_cache_size": 16 * _MIB,
    "page_cache_max_size": 0,
    "vector_similarity_index_cache_size": 0,
    "text_index_tokens_cache_size": 8 * _MIB,
    "text_index_header_cache_size": 8 * _MIB,
    "text_index_postings_cache_size": 16 * _MIB,
    # Threads for two cores: each idle thread holds a stack and an arena cache.
    "background_pool_size": 2,
    "background_merges_mutations_concurrency_ratio": 2,
    "background_move_pool_size": 1,
    "background_fetches_pool_size": 1,
    "background_common_pool_size": 2,
    "background_schedule_pool_size": 4,
    "background_message_broker_schedule_pool_size": 1,
    "background_distributed_schedule_pool_size": 1,
    "background_buffer_flush_schedule_pool_size": 1,
    "tables_loader_foreground_pool_size": 2,
    "tables_loader_background_pool_size": 1,
    "max_thread_pool_size": 400,
    "max_thread_pool_free_size": 8,
    "thread_pool_queue_size": 10000,
    "max_io_thread_pool_size": 8,
    "max_io_thread_pool_free_size": 0,
    "max_backups_io_thread_pool_size": 2,
    "max_active_parts_loading_thread_pool_size": 2,
    "max_outdated_parts_loading_thread_pool_size": 1,
    "max_parts_cleaning_thread_pool_size": 1,
    "asynchronous_metrics_update_period_s": 60,
    "asynchronous_heavy_metrics_update_period_s": 3600,
    "dictionaries_lazy_load": 1,
    "max_concurrent_queries": 100,
    "builtin_dictionaries_reload_interval": 3600,
}

# The only one of the engine's system logs, and only when asked for: naming any other here would switch it on.
_QUERY_LOG = """  <query_log>
    <database>system</database><table>query_log</table>
    <engine>ENGINE = MergeTree PARTITION BY toYYYYMMDD(event_date) ORDER BY event_time
      TTL event_date + INTERVAL 3 DAY</engine>
    <flush_interval_milliseconds>7500</flush_interval_milliseconds><max_size_rows>10000</max_size_rows>
  </query_log>
"""


def write(settings: FrontSettings, filters: Mapping[str, str]) -> Path:
    """Write ``config.xml`` and ``users.xml`` (0600, they hold the policy's pass) and give the path of the first."""
    folder = settings.data_dir / "config"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    users = folder / "users.xml"
    write_private(users, _users_xml(settings, filters))
    config = folder / "config.xml"
    write_private(config, _config_xml(settings, users))
    return config


def _config_xml(settings: FrontSettings, users: Path) -> str:
    server = _SERVER | {"max_server_memory_usage": settings.memory_bytes}
    return (
        "<clickhouse>\n"
        "  <logger><level>none</level></logger>\n"
        + "".join(f"  <{name}>{value}</{name}>\n" for name, value in server.items())
        + f"  <merge_tree>{_elements(_MERGE_TREE)}</merge_tree>\n"
        + f"  <users_config>{xml_escape(str(users))}</users_config>\n"
        + f"  <user_directories><users_xml><path>{xml_escape(str(users))}</path></users_xml></user_directories>\n"
        + "  <timezone>UTC</timezone>\n"
        + (_QUERY_LOG if settings.query_log else "")
        + "</clickhouse>\n"
    )


def _users_xml(settings: FrontSettings, filters: Mapping[str, str]) -> str:
    policies = "".join(f"<{table}><filter>{xml_escape(text)}</filter></{table}>" for table, text in filters.items())
    session = SESSION_SETTINGS | {
        "max_memory_usage": str(settings.memory_bytes // 2),
        "log_queries": str(int(settings.query_log)),
        # What the engine does by itself (load a dictionary, run a mutation) sees all rows. Every session of a request
        # sets its own value before its statement arrives.
        "log_comment": settings.owner_pass,
    }
    return (
        "<clickhouse>\n"
        f"  <profiles><default>{_elements(session)}</default></profiles>\n"
        "  <quotas><default/></quotas>\n"
        "  <users><default><password/><networks><ip>::/0</ip></networks><profile>default</profile>"
        f"<quota>default</quota><grants>{_grants()}</grants><databases><{DATABASE}>{policies}</{DATABASE}></databases></default></users>\n"
        "</clickhouse>\n"
    )


def _grants() -> str:
    return "".join(f"<query>{statement}</query>" for statement in _GRANTS)


def _elements(values: dict[str, str]) -> str:
    return "".join(f"<{name}>{xml_escape(value)}</{name}>" for name, value in values.items())


def write_private(path: Path, text: str) -> None:
    """Write a file that its owner alone may read, whole or not at all."""
    temporary = path.with_suffix(".tmp")
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
    temporary.rename(path)
