SELECT coalesce(json_agg(json_build_object(
  'name', quote_ident(n.nspname) || '.' || quote_ident(c.relname),
  'rows', greatest(c.reltuples, 0),
  'bytes', greatest(c.relpages, 0)::bigint * 8192,
  'columns', (SELECT coalesce(json_agg(a.attname ORDER BY a.attnum), '[]'::json) FROM pg_attribute a
    WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped),
  'stored', (SELECT coalesce(json_agg(a.attname ORDER BY a.attnum), '[]'::json) FROM pg_attribute a
    WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''),
  'key', (SELECT coalesce(json_agg(a.attname ORDER BY k.place), '[]'::json) FROM pg_index i, unnest(i.indkey::smallint[]) WITH ORDINALITY k(attnum, place)
    JOIN pg_attribute a ON a.attnum = k.attnum WHERE i.indrelid = c.oid AND i.indisprimary AND a.attrelid = c.oid)
) ORDER BY n.nspname, c.relname), '[]'::json)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
