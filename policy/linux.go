package policy

// Linux asks for the Linux system call interface.
var Linux = registerFlag(flag{kind: "linux", value: "true", text: "linux"})
