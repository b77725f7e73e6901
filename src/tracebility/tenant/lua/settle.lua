-- Advance the watermark and replace the usage up to it by ClickHouse's figure; later slots stay. O(slots).
--
-- KEYS  1 usage of the org in the period
-- ARGV  1 watermark (a slot), 2 life of the key in milliseconds, then meter and quantity of each meter
-- Returns 1, or 0 when the counter already has this or a later watermark.
local watermark = tonumber(ARGV[1])
if watermark <= tonumber(redis.call('HGET', KEYS[1], 'watermark') or -1) then
    return 0
end
local fields = redis.call('HGETALL', KEYS[1])
local later = {}
for at = 1, #fields, 2 do
    local meter, slot = string.match(fields[at], '^(.*):(%d+)$')
    if meter then
        if tonumber(slot) <= watermark then
            redis.call('HDEL', KEYS[1], fields[at])
        else
            later[meter] = (later[meter] or 0) + tonumber(fields[at + 1])
        end
    end
end
for at = 3, #ARGV, 2 do
    local used = tonumber(ARGV[at + 1]) + (later[ARGV[at]] or 0)
    redis.call('HSET', KEYS[1], ARGV[at], string.format('%.0f', used))
end
redis.call('HSET', KEYS[1], 'watermark', ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1
