package embedded

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"os"
	"path/filepath"
)

// The engine's two configuration files. They are written anew at every start of the child, so a change of ours takes effect with
// the next start.
//
// The engine authenticates every connection as its user default. What a connection may do is therefore the role it holds: the user itself is
// granted what everybody may read, the role writer everything; a reader's connection gives the role away with SET ROLE NONE.

// serverXML: two background threads for merges suit two cores; the caches are bounded because their defaults are gigabytes.
const serverXML = `<clickhouse>
  <users_config>%[1]s</users_config>
  <macros><%[4]s>%[5]s</%[4]s></macros>
  <max_server_memory_usage>%[2]d</max_server_memory_usage>
  <max_thread_pool_size>200</max_thread_pool_size>
  <background_pool_size>2</background_pool_size>
  <background_merges_mutations_concurrency_ratio>2</background_merges_mutations_concurrency_ratio>
  <background_schedule_pool_size>4</background_schedule_pool_size>
  <background_common_pool_size>2</background_common_pool_size>
  <background_move_pool_size>1</background_move_pool_size>
  <background_fetches_pool_size>1</background_fetches_pool_size>
  <background_distributed_schedule_pool_size>1</background_distributed_schedule_pool_size>
  <background_message_broker_schedule_pool_size>1</background_message_broker_schedule_pool_size>
  <background_buffer_flush_schedule_pool_size>1</background_buffer_flush_schedule_pool_size>
  <mark_cache_size>134217728</mark_cache_size>
  <uncompressed_cache_size>0</uncompressed_cache_size>
  <mmap_cache_size>100</mmap_cache_size>
  <index_mark_cache_size>16777216</index_mark_cache_size>
  <max_temporary_data_on_disk_size>%[3]d</max_temporary_data_on_disk_size>
  <merge_tree>
    <fsync_after_insert>1</fsync_after_insert>
    <fsync_part_directory>1</fsync_part_directory>
    <min_rows_to_fsync_after_merge>1</min_rows_to_fsync_after_merge>
    <number_of_free_entries_in_pool_to_execute_mutation>1</number_of_free_entries_in_pool_to_execute_mutation>
    <number_of_free_entries_in_pool_to_lower_max_size_of_merge>1</number_of_free_entries_in_pool_to_lower_max_size_of_merge>
    <number_of_free_entries_in_pool_to_execute_optimize_entire_partition>1</number_of_free_entries_in_pool_to_execute_optimize_entire_partition>
  </merge_tree>
</clickhouse>
`

// usersXML: implicit_select is off as on a server (the embedded engine has it on). The constant settings name files or change what
// a statement means, and no client of ours needs them. Roll-ups of a day are small enough for the engine to read them with one thread by default:
// it would want 160,000 rows for each.
const usersXML = `<clickhouse>
  <profiles>
    <default>
      <implicit_select>0</implicit_select>
      <allow_introspection_functions>0</allow_introspection_functions>
      <storage_file_read_method>pread</storage_file_read_method>
      <merge_tree_min_rows_for_concurrent_read>16384</merge_tree_min_rows_for_concurrent_read>
      <merge_tree_min_bytes_for_concurrent_read>1048576</merge_tree_min_bytes_for_concurrent_read>
      <max_query_size>%d</max_query_size>
      <max_memory_usage>%d</max_memory_usage>
      <constraints>
        <max_memory_usage><max>%d</max></max_memory_usage>
        <implicit_select><const/></implicit_select>
        <allow_introspection_functions><const/></allow_introspection_functions>
        <dialect><const/></dialect>
        <format_schema><const/></format_schema>
        <format_schema_source><const/></format_schema_source>
        <format_template_row><const/></format_template_row>
        <format_template_row_format><const/></format_template_row_format>
        <format_template_resultset><const/></format_template_resultset>
        <format_template_resultset_format><const/></format_template_resultset_format>
        <output_format_schema><const/></output_format_schema>
      </constraints>
    </default>
  </profiles>
  <roles>
    <writer><grants><query>GRANT ALL ON *.* WITH GRANT OPTION</query></grants></writer>
  </roles>
  <users>
    <default>
      <password></password>
      <networks><ip>::/0</ip></networks>
      <profile>default</profile>
      <quota>default</quota>
      <grants>
        <query>GRANT SHOW, SELECT ON tributary.*</query>
        <query>GRANT SHOW, SELECT ON system.*</query>
        <query>GRANT writer</query>
      </grants>
    </default>
  </users>
  <quotas><default></default></quotas>
</clickhouse>
`

// writeEngineConfig writes both files into dir and returns the path of the first.
func writeEngineConfig(dir string, memoryBytes int64, life string) (string, error) {
	usersPath, serverPath := filepath.Join(dir, "users.xml"), filepath.Join(dir, "server.xml")
	query := memoryBytes / 4 * 3
	users := fmt.Sprintf(usersXML, 4*maxQueryBytes, query, query)
	var told bytes.Buffer
	if err := xml.EscapeText(&told, []byte(life)); err != nil {
		return "", fmt.Errorf("write the engine's configuration: %w", err)
	}
	server := fmt.Sprintf(serverXML, usersPath, memoryBytes, temporaryDiskBytes, LifeMacro, &told)
	for path, text := range map[string]string{usersPath: users, serverPath: server} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			return "", fmt.Errorf("write the engine's configuration: %w", err)
		}
	}
	return serverPath, nil
}
