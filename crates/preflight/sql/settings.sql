-- Settings that only a superuser may change and that matter to a migration, as this session has them.
SELECT name::text, setting
  FROM pg_settings
 WHERE name = 'temp_file_limit' AND setting <> '-1'
    OR name = 'log_statement' AND setting IN ('mod', 'all')
    OR name = 'log_min_duration_statement' AND setting = '0'
    OR name IN ('zero_damaged_pages', 'ignore_checksum_failure') AND setting = 'on'
 ORDER BY 1
