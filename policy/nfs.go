package policy

// NFS asks for a root over NFS, which the job chooses.
var NFS = registerFlag(flag{kind: "nfs", value: "root", text: "root over NFS"})
