-- Set a key with an expiry. A script, because plain writes are refused when memory is full. O(1).
--
-- KEYS  1 the key
-- ARGV  1 value, 2 life in milliseconds
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
