# What bsd.port.mk gives the recipes of a port, for a test that installs it without FreeBSD's tree of ports.
PREFIX?=	/usr/local
FIND?=		find
DOCSDIR?=	${PREFIX}/share/doc/${PORTNAME}
EXAMPLESDIR?=	${PREFIX}/share/examples/${PORTNAME}
MKDIR?=		mkdir -p
INSTALL_DATA?=	install -m 0644
INSTALL_MAN?=	install -m 0444
RLN?=		ln -rs
COPYTREE_SHARE?=	sh -c 'find $$0 -type f -exec install -D -m 0644 {} $$1/{} \;'

.PHONY: stage post-install post-install-DOCS-on
stage: post-install post-install-DOCS-on
