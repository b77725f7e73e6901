-- Set a flag for a while. A script, so that it may be set when memory is full. O(1).
--
-- KEYS  1 the flag
-- ARGV  1 its value, 2 its life in milliseconds
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
