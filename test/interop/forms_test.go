package interop

// older is what Debian's buildah does not know.
const older = "buildah before 1.33 does not know it"

// forms are in own words what public Containerfiles and Dockerfiles have.
var forms = []form{
	// The file itself.
	{name: "lower case, tabs and comments", recipe: "# first\nfrom base\n\n   # a comment\n\tenv\tA=b\nRun echo $A>/x # not one\n"},
	{name: "CRLF", recipe: "FROM base\r\nENV A=b \\\r\n  C=d\r\nRUN echo $A$C > /x\r\n"},
	{name: "byte order mark", recipe: "\xef\xbb\xbfFROM scratch\nLABEL a=b\n"},
	{name: "continued with comments and empty lines", recipe: "FROM base\nRUN echo one >> /x && \\\n# a comment\n" +
		"    # another\n\n    echo two >> /x\nENV Z=1\n"},
	{name: "backslash and blanks at the end", recipe: "FROM base\nRUN echo a \\  \n  b > /x\n"},
	{name: "syntax and check directives", recipe: "# syntax=docker/dockerfile:1\n# check=skip=all\nFROM scratch\nUSER x\n"},
	{name: "escape directive", recipe: "# escape=`\nFROM base\nENV A=b` c D=\"e`\"f\" G=C:\\x\nRUN echo `\n  two > /x\n",
		differs: "buildah reads words with a backslash all the same"},
	{name: "unknown instruction", recipe: "FROM scratch\nCOPPY a b\n",
		fails: "Containerfile:2: unknown instruction: COPPY (did you mean COPY?)"},
	{name: "unknown flag", recipe: "FROM scratch\nCOPY --form=x a b\n", files: site,
		fails: "unknown flag: --form (did you mean --from?)"},
	{name: "no FROM", recipe: "RUN true\n", fails: "the first instruction must be FROM"},

	// ENV, ARG and variables.
	{name: "ENV forms", recipe: "FROM scratch\nENV A=1 B=\"two words\" C='single $A' D=es\\ caped E=\nENV old style value\n" +
		"ENV quoted \"kept apart\"  twice\n"},
	{name: "ENV takes what was before", recipe: "FROM scratch\nENV A=hello\nENV A=bye B=$A\nENV C=$A\n"},
	{name: "variable forms", recipe: "FROM scratch\nENV A=a E=\nENV X=${A:-d} Y=${NO:-d} Z=${A:+y} W=${NO:+y} V=${E:-e} " +
		"U=${NO:-${A}b} T=\\$A S='$A' R=\"$A\" Q=$A.x P=${A}x O=$NO.\n"},
	{name: "variables without a colon", recipe: "FROM scratch\nENV E=\nENV X=${E-d} Y=${NO-d} Z=${E+y}\n", differs: older},
	{name: "patterns in variables", recipe: "FROM scratch\nARG V=1.22.3-rc1\nENV A=${V#*.} B=${V##*.} C=${V%.*} D=${V%%.*} " +
		"E=${V/./_} F=${V//./_} G=${V%-*}\n", differs: older},
	{name: "a variable that must be set", recipe: "FROM scratch\nENV X=\"${NO:?say which}\"\n", fails: "NO: say which"},
	{name: "PATH goes on", recipe: "FROM scratch\nENV PATH=/opt/bin:$PATH\nENV LD_LIBRARY_PATH=/x:$LD_LIBRARY_PATH\n"},
	{name: "ARG default and given", recipe: "FROM base\nARG A=1\nARG B=2 C\nRUN echo $A $B $C ${C-none} > /x\nENV K=$A$B\n",
		flags: []string{"--build-arg", "B=given"}},
	{name: "ARG before FROM", recipe: "ARG BASE=scratch\nARG V=1\nFROM $BASE\nLABEL before=\"$V\"\nARG V\nLABEL after=$V\n"},
	{name: "ARG before FROM is not in a stage", recipe: "ARG V=1\nFROM base\nRUN echo \"[$V]\" > /x\n"},
	{name: "ENV wins over ARG", recipe: "FROM base\nARG A=arg\nENV A=env\nRUN echo $A > /x\n", flags: []string{"--build-arg", "A=given"}},
	{name: "ARG is not in the image", recipe: "FROM base\nARG SECRET=x\nRUN echo $SECRET > /x\n"},
	{name: "predefined platform", recipe: "FROM scratch\nARG TARGETOS TARGETARCH TARGETPLATFORM\nLABEL o=$TARGETOS " +
		"a=$TARGETARCH p=$TARGETPLATFORM\n", differs: "buildah before 1.30 takes one name for an ARG"},
	{name: "predefined proxy", recipe: "FROM base\nRUN echo $HTTP_PROXY > /x\n", flags: []string{"--build-arg",
		"HTTP_PROXY=http://127.0.0.1:1"}},
	{name: "build argument that nothing takes", recipe: "FROM scratch\nUSER x\n", flags: []string{"--build-arg", "TYPO=1"}},

	// Commands.
	{name: "CMD for the shell", recipe: "FROM scratch\nCMD echo $HOME && exec web -p 80\n"},
	{name: "CMD as JSON", recipe: "FROM scratch\nCMD [ \"/bin/web\", \"-p\", \"$PORT\" ]\n"},
	{name: "CMD that is no JSON", recipe: "FROM scratch\nCMD ['web', '-p']\n"},
	{name: "ENTRYPOINT and CMD", recipe: "FROM scratch\nENTRYPOINT [\"/bin/web\"]\nCMD [\"-p\", \"80\"]\n"},
	{name: "ENTRYPOINT drops a CMD of the base", recipe: "FROM base AS a\nCMD [\"x\"]\nFROM base\nCMD [\"old\"]\nCMD [\"new\"]\n" +
		"ENTRYPOINT exec web\n"},
	{name: "empty ENTRYPOINT", recipe: "FROM scratch\nENTRYPOINT [\"a\"]\nENTRYPOINT []\nCMD [\"b\"]\n"},
	{name: "SHELL", recipe: "FROM base\nSHELL [\"/bin/sh\", \"-ec\"]\nRUN echo $- | grep -o e > /x\nCMD run it\n",
		differs: "buildah gives CMD to /bin/sh all the same"},
	{name: "RUN forms", recipe: "FROM base\nRUN echo \"a  b\" 'c' \\$x > /x; cd /bin; pwd >> /x\n" +
		"RUN [\"/bin/sh\", \"-c\", \"echo json >> /x\"]\nRUN [ -e /x ] && echo bracket >> /x\nRUN set -eux; \\\n\techo $0 >> /x\n"},
	{name: "RUN as a user in a directory", recipe: "FROM base\nWORKDIR /srv/app\nRUN chown web /srv/app\nUSER web\n" +
		"RUN pwd > out; id -u >> out\n"},
	{name: "RUN that fails", recipe: "FROM base\nRUN false\n", fails: "Containerfile:2: RUN: the command ended with exit code 1"},
	{name: "RUN without network", recipe: "FROM base\nRUN --network=none echo a > /x\n", differs: older},
	{name: "RUN insecure", recipe: "FROM base\nRUN --security=insecure true\n", fails: "--security=insecure: not supported",
		differs: "buildah before 1.30 knows no such flag"},
	{name: "RUN with a bind mount", recipe: "FROM base\nRUN --mount=type=bind,source=css,target=/in cat /in/a.css > /x\n", files: site},
	{name: "RUN with a bind mount of a stage", recipe: "FROM base AS one\nRUN echo made > /made\nFROM base\n" +
		"RUN --mount=type=bind,from=one,source=/made,target=/in cat /in > /x\n", differs: "buildah mounts no single file"},
	{name: "RUN with a cache", recipe: "FROM base\nRUN --mount=type=cache,target=/var/cache/x echo 1 > /var/cache/x/a; echo b > /x\n" +
		"RUN rm -rf /var\n", differs: "buildah keeps its cache mounts outside of its directories"},
	{name: "RUN with a tmpfs", recipe: "FROM base\nRUN --mount=type=tmpfs,target=/t echo 1 > /t/a; echo b > /x\n"},
	{name: "RUN with ssh", recipe: "FROM base\nRUN --mount=type=ssh true\n", fails: "type=ssh is not supported",
		differs: "buildah lends an agent"},
	{name: "RUN of a text", recipe: "FROM base\nRUN <<EOF\necho one > /x\nfalse\necho two >> /x\nEOF\n", differs: older},
	{name: "RUN of a script", recipe: "FROM base\nRUN <<EOF\n#!/bin/busybox ash\necho script > /x\nEOF\n", differs: older},
	{name: "RUN of a command with a text", recipe: "FROM base\nRUN cat > /x <<'A' && cat > /y <<-B\n\t$HOME\nA\n\ttabs\nB\n", differs: older},

	// Files.
	{name: "COPY a file", recipe: "FROM scratch\nCOPY index.html /srv/\nCOPY index.html /srv/home.html\nCOPY run.sh /\n", files: site},
	{name: "COPY all", recipe: "FROM scratch\nCOPY . /srv\n", files: written{"a": "1", "b/c": "2", "b/.d": "3", ".dockerignore": "Container*\n.docker*\n"}},
	{name: "COPY a directory's content", recipe: "FROM scratch\nCOPY css /srv/css\nCOPY css/ /other/\n", files: site},
	{name: "COPY several and patterns", recipe: "FROM scratch\nCOPY index.html *.txt /srv/\nCOPY css/?.css /css/\n", files: site},
	{name: "COPY as JSON", recipe: "FROM scratch\nCOPY [\"a b\", \"c\", \"/d e/\"]\n", files: written{"a b": "1", "c": "2"}},
	{name: "COPY relative to WORKDIR", recipe: "FROM scratch\nWORKDIR /srv\nCOPY index.html .\nCOPY css ./css/\nWORKDIR app\n" +
		"COPY notes.txt ./\nCOPY more.txt ../up/\n", files: site},
	{name: "COPY with variables", recipe: "FROM scratch\nARG F=index\nENV D=/srv\nCOPY ${F}.html $D/$F\n", files: site},
	{name: "COPY an absolute source", recipe: "FROM scratch\nCOPY /index.html /css/a.css /srv/\n", files: site},
	{name: "COPY --chown and --chmod", recipe: "FROM base\nCOPY --chown=web:staff index.html /a\nCOPY --chown=80 index.html /b\n" +
		"COPY --chown=1:2 --chmod=0600 index.html /c\n", files: site},
	{name: "COPY --chmod of a directory", recipe: "FROM scratch\nCOPY --chmod=755 css /css\n", files: site},
	{name: "COPY of what is not there", recipe: "FROM scratch\nCOPY gone /\n", fails: "COPY: gone in the context: no such file"},
	{name: "COPY out of the context", recipe: "FROM scratch\nCOPY ../x /\n", fails: "leads out of the context"},
	{name: "COPY several to a file", recipe: "FROM scratch\nCOPY notes.txt more.txt /srv\n", files: site},
	{name: "COPY --link", recipe: "FROM scratch\nCOPY --link index.html /srv/\n", files: site, differs: older},
	{name: "COPY --exclude", recipe: "FROM scratch\nCOPY --exclude=*.txt --exclude=css/deep . /srv/\n", files: written{"a": "1", "b.txt": "2",
		"css/deep/x": "3", "css/y": "4", ".dockerignore": "Containerfile\n.dockerignore\n"}, differs: older},
	{name: "COPY --parents", recipe: "FROM scratch\nCOPY --parents css/a.css css/deep /srv/\nCOPY --parents css/./deep/c.css /other/\n",
		files: site, differs: older},
	{name: "COPY of texts", recipe: "FROM scratch\nENV A=b\nCOPY <<one <<'two' /srv/\n$A \"q\" \\$x\none\n$A\ntwo\nCOPY <<-E /t\n\ttab\n\tE\n", differs: older},
	{name: "ADD an archive", recipe: "FROM scratch\nADD a.tar.gz /srv/\nADD index.html /srv/\n", files: site.with("a.tar.gz", packed)},
	{name: "ADD an archive in bzip2", recipe: "FROM scratch\nADD a.tar.bz2 /srv/\n", files: written{"a.tar.bz2": bzipped}},
	{name: "ADD of git", recipe: "FROM scratch\nADD https://example.org/x.git /srv/\n", fails: "git is not supported", differs: "buildah clones"},
	{name: "dockerignore", recipe: "FROM scratch\nCOPY . /srv/\n", files: site.with(".dockerignore",
		"# comment\n\n*\n!css\ncss/deep\n!*.txt\n  more.txt  \n")},
	{name: "dockerignore of many levels", recipe: "FROM scratch\nCOPY . /srv/\n", files: site.with(".dockerignore",
		"**/*.css\n!**/c.css\n/run.sh\nnotes.*\nContainerfile\n.dockerignore\n")},
	{name: "containerignore goes first", recipe: "FROM scratch\nCOPY . /srv/\n", files: site.with(".dockerignore", "css\n").with(".containerignore", "*.txt\nContainerfile\n.*ignore\n")},
	{name: "an ignored source", recipe: "FROM scratch\nCOPY notes.txt /\n", files: site.with(".dockerignore", "notes.txt\n"), fails: "excluded by .dockerignore"},

	// Stages.
	{name: "stages", recipe: "FROM base AS build\nRUN echo made > /made\nFROM scratch\nCOPY --from=build /made /srv/\nCOPY --from=0 /made /again\n"},
	{name: "a stage in another case", recipe: "FROM base AS Build\nRUN echo made > /made\nFROM scratch\n" +
		"COPY --from=build /made /\n", differs: "to buildah the case of a name counts"},
	{name: "a stage that continues one", recipe: "FROM base AS one\nENV A=1\nWORKDIR /one\nFROM one AS two\nRUN echo $A > x\n"},
	{name: "a target", recipe: "FROM base AS one\nUSER one\nFROM base AS two\nUSER two\nRUN false\n", flags: []string{"--target", "one"}},
	{name: "a stage that nothing needs", recipe: "FROM base AS broken\nRUN false\nFROM scratch\nUSER x\n"},
	{name: "COPY from an image", recipe: "FROM scratch\nCOPY --from=base /etc/passwd /srv/\n", differs: "buildah wants a name here"},
	{name: "FROM with a platform", recipe: "FROM --platform=linux/amd64 scratch\nUSER x\n"},

	// What an image says of itself.
	{name: "LABEL forms", recipe: "FROM scratch\nLABEL a=b \"c.d\"=\"e f\" g='h i' j=k\\ l\nLABEL old style label\nLABEL m=\"one \\\n two\" \\\n n=o\nLABEL v=$NO.\n"},
	{name: "EXPOSE forms", recipe: "FROM scratch\nARG P=9000\nENV Q=9001/udp\nEXPOSE 80 443/tcp 53/udp $P ${Q}\n"},
	{name: "EXPOSE of a range", recipe: "FROM scratch\nEXPOSE 8000-8002 9000-9001/udp\n",
		differs: "buildah keeps the text of a range, docker makes ports of it"},
	{name: "EXPOSE with a port of the host", recipe: "FROM scratch\nEXPOSE x80\n", fails: "not a valid port", differs: "buildah keeps any text"},
	{name: "VOLUME forms", recipe: "FROM scratch\nVOLUME /data\nVOLUME [\"/a\", \"/b c\"]\nVOLUME /d /e\n",
		differs: "buildah makes the directories of the last one"},
	{name: "WORKDIR forms", recipe: "FROM scratch\nENV D=app\nWORKDIR /srv\nWORKDIR $D/x\nWORKDIR ../y\n"},
	{name: "USER forms", recipe: "FROM scratch\nARG U=80\nUSER ${U}:81\n"},
	{name: "STOPSIGNAL", recipe: "FROM scratch\nSTOPSIGNAL SIGQUIT\n"},
	{name: "MAINTAINER", recipe: "FROM scratch\nMAINTAINER Some One <one@example.org>\n"},
	{name: "HEALTHCHECK forms", recipe: "FROM scratch\nHEALTHCHECK --interval=30s --timeout=3s --start-period=1m --retries=2 " +
		"CMD curl -f http://localhost/ || exit 1\n"},
	{name: "HEALTHCHECK as JSON", recipe: "FROM scratch\nHEALTHCHECK CMD [\"/bin/ok\", \"-q\"]\n"},
	{name: "HEALTHCHECK NONE", recipe: "FROM scratch\nHEALTHCHECK NONE\n"},
	{name: "ONBUILD", recipe: "FROM scratch\nONBUILD COPY . /srv\nONBUILD RUN [\"/bin/x\"]\n"},
	{name: "ONBUILD of ONBUILD", recipe: "FROM scratch\nONBUILD ONBUILD RUN x\n", fails: "ONBUILD is not supported in ONBUILD"},
}

// packed and bzipped are archives of a directory with a file, of 5:6.
var packed = "\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\xed\xd2\xb1\x0a\x83\x30\x14\x85\xe1\x3b\xfb\x14\x79\x03\x6f\x49" +
	"\xa2\xcf\x23\x44\x4a\x28\x3a\x18\x7d\x7f\x6d\x68\x07\x3b\x38\x14\xa2\x83\xff\xb7\x9c\x0c\x81\x1c\x38\x09" +
	"\xb5\x14\xa7\x9b\xd6\xfb\x9c\xaa\xdf\x6c\x3e\x99\xed\xcf\x0f\x55\x6b\xc5\xf8\xf2\xd5\x44\x96\x34\x77\x93" +
	"\x31\xf2\xec\x86\x3e\x1d\xdc\x0b\x31\xbd\xce\xe8\x73\xb2\x50\xc7\xb1\xf4\x1b\x79\x6d\xe7\x0e\xf6\xb7\xbf" +
	"\xfb\xdb\xed\xbb\x18\x2d\x5d\xec\xed\xe6\xfb\xc7\xb1\xba\xba\x02\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00" +
	"\x00\x00\x80\x3f\xad\x87\xae\xca\x65\x00\x28\x00\x00"

var bzipped = "\x42\x5a\x68\x39\x31\x41\x59\x26\x53\x59\xdb\xf6\xf1\x2e\x00\x00\x90\xfb\x84\xd1\x90\x00\x82\x40\x00\xef" +
	"\x80\x00\x05\x66\xab\x1e\x00\x00\x00\x80\x08\x20\x00\x75\x09\x49\xa4\xd0\x68\x68\x1a\x64\x00\x09\x28\x99" +
	"\x00\x00\x03\x43\x27\x84\xbc\xb3\x1b\xa0\x3d\x20\x2c\xa5\x09\x21\xf8\xe4\xd5\x99\x7b\x98\x54\x4e\x19\x0c" +
	"\x12\x06\x81\x72\xa3\x4e\xc5\x37\x1a\xe1\x11\x25\x37\x01\x26\x14\x2b\x07\xc5\x48\x5f\x64\x08\x95\x4d\x47" +
	"\x89\xc9\xf1\xd4\xbb\x22\x4e\x76\xed\x48\x1e\x91\x18\x44\x69\x21\xc4\x8a\x84\x83\xf1\x77\x24\x53\x85\x09" +
	"\x0d\xbf\x6f\x12\xe0"
