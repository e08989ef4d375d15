-- Argo CD runs this with `obj`; Lua 5.1, no libraries. All kinds but Release and InstanceClass begin
-- with it.
local found = {}
local status = obj.status
if status ~= nil and status.conditions ~= nil then
  for _, condition in ipairs(status.conditions) do
    found[condition.type] = condition
  end
end

local function told(condition, otherwise)
  if condition ~= nil and condition.message ~= nil and condition.message ~= "" then
    return condition.message
  end
  return otherwise
end

local function is(type_, word)
  return found[type_] ~= nil and found[type_].status == word
end

if obj.metadata.deletionTimestamp ~= nil then
  return { status = "Progressing", message = told(found.DeletionBlocked or found.Ready, "it is being deleted") }
end
if status == nil or status.observedGeneration ~= obj.metadata.generation then
  return { status = "Progressing", message = "the operator has not looked at this generation yet" }
end
if is("Stalled", "True") then
  return { status = "Degraded", message = told(found.Stalled, "it needs somebody") }
