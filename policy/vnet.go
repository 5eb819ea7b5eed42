package policy

// VNET asks for a network stack of the jail's own.
var VNET = registerFlag(flag{kind: "vnet", value: "true", text: "vnet"})
