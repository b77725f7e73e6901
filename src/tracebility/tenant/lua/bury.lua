-- Add an entry to the dead letters, once, however often it is asked for until its mark is taken away. O(1).
--
-- KEYS  1 the dead letters, 2 the marks of what was buried, 3 bytes of dead letters by org
-- ARGV  1 the stream and id it comes from, 2 the org, '' where it cannot be told, 3 its bytes, then its fields and
--       their values
-- Answers the bytes of dead letters that the org has then.
if redis.call('HSETNX', KEYS[2], ARGV[1], '') == 1 then
    redis.call('XADD', KEYS[1], '*', unpack(ARGV, 4))
    if ARGV[2] ~= '' then
        redis.call('HINCRBY', KEYS[3], ARGV[2], ARGV[3])
    end
end
return tonumber(redis.call('HGET', KEYS[3], ARGV[2]) or 0)
