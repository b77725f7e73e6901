-- Decide which of an envelope's entries counts in the ledger: the first that asks. O(envelopes).
--
-- KEYS  for each envelope: key of the location of its counted entry
-- ARGV  1 life of that key in milliseconds, then for each envelope: location of the asking entry, and 1 if an earlier
--       outcome exists, else 0
-- Returns for each envelope 1 if the asking entry counts, else 0.
local counts = {}
for nth, key in ipairs(KEYS) do
    local place = redis.call('GET', key)
    -- An earlier outcome without a location belongs to an entry that was removed long ago. Do not store a location then:
    -- the outcome answers the question for every other entry too.
    if not place and ARGV[nth * 2 + 1] == '0' then
        place = ARGV[nth * 2]
        redis.call('SET', key, place, 'PX', ARGV[1])
    end
    counts[nth] = place == ARGV[nth * 2] and 1 or 0
end
return counts
