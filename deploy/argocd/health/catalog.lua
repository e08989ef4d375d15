-- Argo CD runs this with `obj`; Lua 5.1, no libraries. Release and InstanceClass: can the operator use it?
local status = obj.status
if obj.metadata.deletionTimestamp ~= nil then
  return { status = "Progressing", message = "it is being deleted" }
end
if status == nil or status.observedGeneration ~= obj.metadata.generation then
  return { status = "Progressing", message = "the operator has not looked at this generation yet" }
end
for _, condition in ipairs(status.conditions or {}) do
  if condition.type == "Ready" then
    if condition.status == "True" then
      return { status = "Healthy", message = "it can be used" }
    end
    return { status = "Degraded", message = condition.message or "it cannot be used" }
  end
end
return { status = "Progressing", message = "not judged yet" }
