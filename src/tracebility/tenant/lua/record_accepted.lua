-- Record envelopes that were just added to a stream as accepted and in flight; recorded ones stay unchanged. O(envelopes).
--
-- KEYS  for each envelope: its `accepted` hash, its `in_flight` hash
-- ARGV  for each envelope: id, hour, items
-- Returns for each envelope the number of its org's envelopes in its stream.
local depths = {}
local time = redis.call('TIME')
local now_ms = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
for at = 1, #ARGV, 3 do
    local accepted, in_flight = KEYS[(at - 1) / 3 * 2 + 1], KEYS[(at - 1) / 3 * 2 + 2]
    if redis.call('HSETNX', in_flight, ARGV[at], ARGV[at + 1] .. '|' .. ARGV[at + 2] .. '|' .. now_ms) == 1 then
        redis.call('HINCRBY', accepted, ARGV[at + 1], ARGV[at + 2])
    end
    depths[#depths + 1] = redis.call('HLEN', in_flight)
end
return depths
