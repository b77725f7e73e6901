-- Add an entry to the dead letters. Idempotent while the entry's mark exists. O(1).
--
-- KEYS  1 dead-letter stream, 2 hash of marks, 3 hash: org -> bytes of dead letters
-- ARGV  1 source stream and entry id, 2 org ('' if unknown), 3 bytes of the entry, then its fields and values
-- Returns the bytes of the org's dead letters.
if redis.call('HSETNX', KEYS[2], ARGV[1], '') == 1 then
    redis.call('XADD', KEYS[1], '*', unpack(ARGV, 4))
    if ARGV[2] ~= '' then
        redis.call('HINCRBY', KEYS[3], ARGV[2], ARGV[3])
    end
end
return tonumber(redis.call('HGET', KEYS[3], ARGV[2]) or 0)
